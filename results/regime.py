"""What runs show of their regime: how far matrices grew, where bounds lie, and how hard they act.

An artefact is in the paper's regime if, at AdamW's best learning rate, G(2x) is within a factor of 6
and ρ within a factor of 4 of the paper's (tasks/engine/regime.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from results.runs import Run, chosen_and_reported
from results.schema import Artefact
from results.settings import best_setting, seeds_apart
from results.thinning import quotients, thin_dynamics

PAPER = Path(__file__).with_name("paper_regime.yaml")
REGIME = "the paper's regime"  # in each of the sentences
GROWTH_FACTOR, TURN_FACTOR, AFTER_FACTOR = 6, 4, 2

ABOVE = 1.05  # R / κ


@dataclass(frozen=True)
class Measured:
    """Sizes of one run, as medians over its regularized matrices if not said otherwise.

    grown: R at the end over R at initialization.
    bound: κ at the end over R at initialization. None without a bound.
    most: the largest R / κ of any matrix at any logged step with a bound.
    active: share of the (matrix, step) pairs of the rows that are kept (results/thinning.py) with λ > 0.
    largest_lambda: of any matrix at any logged step.
    above: share of the same pairs with R > 1.05 κ. R may exceed κ: a bound pulls, it doesn't clip.
    """

    grown: float
    bound: float | None = None
    most: float | None = None
    active: float | None = None
    largest_lambda: float | None = None
    above: float | None = None


def measured(run: Run) -> Measured | None:
    """Return the sizes of a run, or None if its log doesn't begin at step 0 or R(0) is zero for a matrix."""
    rows = [row for row in thin_dynamics(run.dynamics) if "R" in row]
    if len(rows) < 2 or rows[0]["step"] != 0 or not all(rows[0]["R"]):
        return None
    start, last = rows[0]["R"], rows[-1]
    grown = median(quotients(last["R"], start))
    if "kappa" not in last:
        return Measured(grown)
    bounds = quotients(last["kappa"], start)
    later = rows[1:]
    sizes = [ratio for row in later for ratio in quotients(row["R"], row["kappa"])]
    pressed = [value for row in later for value in row["lambda"]]
    return Measured(
        grown,
        median(bounds) if bounds else None,
        max(sizes, default=None),
        sum(value > 0 for value in pressed) / len(pressed),
        max(pressed),
        sum(size > ABOVE for size in sizes) / len(pressed),
    )


@dataclass(frozen=True)
class Place:
    """Where an artefact's runs lie beside the paper's.

    growth, turn, after: G(2x), ρ and Σ η² of all steps over that up to 2x the lr warm-up. None where
        one is not known. `after` counts for matrices that begin at zero, which have no G.
    """

    growth: float | None
    turn: float | None
    after: float | None
    paper: dict[str, float]

    @property
    def inside(self) -> bool | None:
        """Whether the runs are in the paper's regime, or None if that can't be said."""
        if "after" in self.paper and self.after is not None:
            return _within(self.after, self.paper["after"], AFTER_FACTOR)
        if self.growth is None or "growth" not in self.paper:
            return None
        within = _within(self.growth, self.paper["growth"], GROWTH_FACTOR)
        if self.turn is None or "turn" not in self.paper:
            return within
        return within and _within(self.turn, self.paper["turn"], TURN_FACTOR)


def place_of_runs(artefact: Artefact, task: str, runs: Sequence[Run]) -> Place:
    """Return the regime of a task's runs at AdamW's best learning rate, else at their median one."""
    own = [run for run in runs if run.task == task and run.record.get("regime")]
    lr = _best_lr(artefact, own)
    found = [run.record["regime"] for run in own if float(run.config["lr"]) == lr]
    growth = _middle(one["growth"].get("2x") for one in found)
    return Place(
        growth, _middle(one["turn"] for one in found), _middle(one.get("after") for one in found), of_the_paper(task)
    )


def of_the_paper(task: str) -> dict[str, float]:
    """Return the paper's numbers for a task, or {} if they are not known."""
    found: dict[str, float] = yaml.safe_load(PAPER.read_text()).get(task, {})
    return found


def _best_lr(artefact: Artefact, runs: Sequence[Run]) -> float | None:
    """Return AdamW's learning rate in its best setting, else the median one."""
    tuning, _ = seeds_apart(artefact, runs)
    if artefact.metric is not None:
        chosen_by, _ = chosen_and_reported(artefact.metric.name, tuning)
        adamw = [run for run in tuning if run.regularizer == "adamw"]
        if best := best_setting(adamw, chosen_by, artefact.metric.higher):
            return float(best[0].config["lr"])
    lrs = sorted(float(run.config["lr"]) for run in runs)
    return lrs[len(lrs) // 2] if lrs else None


def regime_sentence(artefact: Artefact, runs: Sequence[Run]) -> str:
    """Return one sentence for each task of the runs: its regime beside the paper's. Empty without any number.

    Runs of `layout: dose` have one for each schedule.
    """
    parts: dict[tuple[str, int, str], list[Run]] = {}
    for run in runs:
        schedule = (run.num_steps, f", {schedule_of(run)}") if artefact.layout == "dose" else (0, "")
        parts.setdefault((run.task, *schedule), []).append(run)
    sentences = (_of_part(artefact, task, about, parts[task, steps, about]) for task, steps, about in sorted(parts))
    return " ".join(filter(None, sentences))


def schedule_of(run: Run) -> str:
    """Return a run's schedule in words."""
    return f"{run.num_steps:,} steps, {run.config['task']['schedule']['warmup_steps']:,} of warm-up"


def _of_part(artefact: Artefact, task: str, about: str, runs: Sequence[Run]) -> str:
    place = place_of_runs(artefact, task, runs)
    sizes = [(run, found) for run in runs if run.task == task and (found := measured(run)) is not None]
    bounded = [found for _, found in sizes if found.bound is not None]
    plain = [found.grown for run, found in sizes if run.regularizer == "adamw" and _is_least_decay(run, sizes)]
    parts = [
        _beside("G(2x)", place.growth, place.paper.get("growth")),
        _beside("ρ", place.turn, place.paper.get("turn")),
        _beside("growth after 2x", place.after if place.growth is None else None, place.paper.get("after")),
        _beside("κ/R(0)", _middle(one.bound for one in bounded), place.paper.get("bound")),
        _beside("R(T)/R(0) of AdamW with the least decay", _middle(plain), None),
        _beside("largest λ", _middle(one.largest_lambda for one in bounded), None),
    ]
    active = _middle(one.active for one in bounded)
    parts.append("" if active is None else f"active bounds {active:.0%}")
    said = ", ".join(filter(None, parts))
    if not said:
        return ""
    words = {
        True: f"Inside {REGIME}",
        False: f"Outside {REGIME}, so this neither supports nor contradicts the paper",
        None: f"Whether this is {REGIME} can't be said",
    }
    return f"{words[place.inside]} ({task}{about}: {said})."


def _is_least_decay(run: Run, sizes: Sequence[tuple[Run, Any]]) -> bool:
    decays = [one.config["regularizer"]["weight_decay"] for one, _ in sizes if one.regularizer == "adamw"]
    return bool(run.config["regularizer"]["weight_decay"] == min(decays))


def _beside(name: str, ours: float | None, paper: float | None) -> str:
    if ours is None:
        return ""
    return f"{name} {ours:.3g}" + (f" (paper {paper:.3g})" if paper is not None else "")


def _middle(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _within(ours: float, paper: float, factor: float) -> bool:
    return paper / factor <= ours <= paper * factor
