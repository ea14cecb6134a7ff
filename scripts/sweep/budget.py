"""reproduce.py --dry-run budget="1x24GB 24h": what some GPUs can do in some hours, and why not the rest."""

import math
import re
from collections.abc import Collection
from typing import NamedTuple

from omegaconf import DictConfig

from results.schema import Artefact, at_scale
from scripts.cli.parser import Key, Request
from scripts.cli.tables import show
from scripts.sweep.cards import CARDS, RECOMPUTED, Fit, fit, run_seconds
from scripts.sweep.grids import expand_grids
from scripts.sweep.plan import best_cells
from tasks.engine.errors import UserError

SAID_AS = {"24GB": "RTX3090", "A100-80GB": "A100", "H100-80GB": "H100"}


class Budget(NamedTuple):
    """Some GPUs of one type, for some hours."""

    gpus: int
    card: str
    hours: float


def budget_of(text: str) -> Budget:
    """Return the budget of a text such as `1x24GB 24h` or `8xA100 72h`.
    Raises ValueError for anything else.
    """
    names = {name.lower(): card for name, card in ({card: card for card in CARDS} | SAID_AS).items()}
    found = re.fullmatch(r"(\d+)\s*x\s*([\w-]+)[\s,]+([\d.]+)\s*h", text.strip())
    if found is None or found[2].lower() not in names or int(found[1]) < 1 or not float(found[3]) > 0:
        cards = ", ".join([*CARDS, *SAID_AS])
        raise ValueError(f'must be like "1x24GB 24h": a number of GPUs, one of {cards}, and hours')
    return Budget(int(found[1]), names[found[2].lower()], float(found[3]))


BUDGET = Key(
    "budget",
    'with --dry-run: what can be done on some GPUs in some hours, such as "1x24GB 24h" or "8xA100 72h"',
    without="the runs and their cost",
    type=budget_of,
)


class Offer(NamedTuple):
    """An artefact, or the best cells of it, on a budget's GPUs. why_not is empty if its runs fit into memory."""

    runs: int
    hours: float
    keys: str
    why_not: str


def offer(configs: Collection[DictConfig], budget: Budget) -> Offer:
    """Return what some runs cost on a budget's GPUs, and the keys that they need there."""
    gpus = min(budget.gpus, max(cfg.gpus for cfg in configs))
    seconds, fits, why_not = 0.0, [], ""
    for cfg in configs:
        found = fit(cfg, gpus, budget.card)
        price = run_seconds(cfg, budget.card)
        if isinstance(found, str) or price is None:
            why_not = f"{cfg.task.get('size', cfg.task.name)}: {found if isinstance(found, str) else 'unknown price'}"
            continue
        fits.append((cfg, found))
        seconds += price * (RECOMPUTED if found.gradient_checkpointing > cfg.gradient_checkpointing else 1)
    return Offer(len(configs), seconds / budget.gpus / 3600, keys_of(fits, gpus), why_not)


def keys_of(fits: list[tuple[DictConfig, Fit]], gpus: int) -> str:
    """Return the keys with which all of these runs fit."""
    sizes = {found.micro_batch or -(-cfg.task.batch_size // gpus) for cfg, found in fits}
    keys = [f"gpus={gpus}"]
    if any(found.micro_batch for _, found in fits):
        keys.append(f"micro_batch={math.gcd(*sizes)}")
    if any(found.gradient_checkpointing for _, found in fits):
        keys.append("gradient_checkpointing=true")
    return " ".join(keys)


def show_budget(asked: list[tuple[Artefact, Request]], given: Request) -> None:
    """Print a line for each artefact: what can be done of it, with which keys, or why nothing can.
    Raises UserError without --dry-run or at a scale that names no resources.
    """
    if "dry-run" not in given.flags:
        raise UserError("budget= starts nothing: add --dry-run")
    if given.options["scale"] != "paper":
        raise UserError(f"budget= is about the paper's scale, not scale={given.options['scale']}: add scale=paper")
    budget: Budget = given.options["budget"]
    rows = []
    for artefact, request in asked:
        configs = expand_grids(artefact, request.options, request.overrides)
        best = _best_cells(artefact, configs, budget)
        rows.append([artefact.name, *_said(offer(configs.values(), budget), best, budget)])
    show(("artefact", "what can be done", "runs", "hours", "keys, or why not"), rows)
    card = CARDS[budget.card]
    print(
        f"on {budget.gpus} {budget.card} ({card.memory} GB, taken to be {card.speed:g} times as fast as an A100) in "
        f"{budget.hours:g} hours; times are estimates; nothing was started"
    )


def _best_cells(artefact: Artefact, configs: dict[str, DictConfig], budget: Budget) -> Offer | None:
    """Return the offer for the best cells. None if the paper prints no values."""
    try:
        return offer(best_cells(at_scale(artefact, "paper"), configs).values(), budget)
    except UserError:
        return None


def _said(whole: Offer, best: Offer | None, budget: Budget) -> list[str]:
    if not whole.why_not and whole.hours <= budget.hours:
        return ["all of it", str(whole.runs), f"{whole.hours:.1f}", whole.keys]
    if best is not None and not best.why_not and best.hours <= budget.hours:
        return ["its best cells", str(best.runs), f"{best.hours:.1f}", f"cells=best {best.keys}"]
    least = whole if best is None else best
    cells = "" if best is None else "its best cells "
    why = least.why_not or f"{cells}would take {least.hours:,.0f} hours"
    return ["nothing", str(least.runs), "" if least.why_not else f"{least.hours:,.0f}", why]
