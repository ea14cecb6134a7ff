"""How far Adam's updates will make a weight matrix grow, from the schedule and its size at initialization.

An unbounded matrix grows about as R(s) = R(0) + c Σ η², summed over the updates up to step s, with c
near 0.4 to 0.8. So Σ η² / R(0) says where a bound that is set at step s lies, before any training.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypedDict

from tasks.engine.config import Config, Schedule
from tasks.engine.schedule import lr_factor

MULTIPLES = (1, 2, 4)  # of the lr warm-up
C = 0.6


class Regime(TypedDict):
    """What a configuration does to the size of its matrices.

    growth: G(s) = Σ_{t<s} η_t² / R(0) at 1x, 2x and 4x the lr warm-up and at the `end`. R(0) is the
        median over the regularized matrices of their mean square. Without a warm-up only `end`.
    after: Σ η² of the whole schedule over that of the steps up to 2x the lr warm-up: how far an unbounded
        matrix that begins at zero still grows. None without a warm-up.
    turn: ρ = η / √κ with the peak learning rate and κ = R(0) (1 + 0.6 G(2x)): the relative size of a
        step at the bound. None without a warm-up.
    """

    growth: dict[str, float]
    turn: float | None
    after: float | None


def of_run(cfg: Config, folder: Path) -> Regime | None:
    """Return the regime of a run by the sizes at step 0 in its dynamics.jsonl.

    None without that step, as in older logs, or if R is another measure than the mean square.
    """
    log = folder / "dynamics.jsonl"
    if getattr(cfg.regularizer, "reg_function", "l2") != "l2" or not log.exists():
        return None
    with open(log) as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 2)]
    if len(rows) < 2 or rows[1]["step"] != 0:
        return None
    return regime(cfg.task.schedule, cfg.lr, cfg.num_steps, [size for size in rows[1]["R"] if size is not None])


def regime(schedule: Schedule, lr: float, num_steps: int, sizes: Sequence[float]) -> Regime:
    """Return the regime of matrices with these mean squares at initialization.

    Growth and turn are missing if half of the sizes or more are zero, as LoRA's B begins.
    """
    start = median(sizes) if sizes else 0.0
    moments = {f"{multiple}x": multiple * schedule.warmup_steps for multiple in MULTIPLES if schedule.warmup_steps}
    moments = {name: step for name, step in moments.items() if step < num_steps} | {"end": num_steps}
    squares, sums = 0.0, {}
    names = {step: name for name, step in moments.items()}
    for step in range(num_steps):
        squares += (lr * lr_factor(schedule, step, num_steps)) ** 2
        if step + 1 in names:
            sums[names[step + 1]] = squares
    after = squares / sums["2x"] if "2x" in sums else None
    if start <= 0:
        return {"growth": {}, "turn": None, "after": after}
    growth = {name: value / start for name, value in sums.items()}
    bound = start * (1 + C * growth["2x"]) if "2x" in growth else None
    return {"growth": growth, "turn": lr / bound**0.5 if bound else None, "after": after}
