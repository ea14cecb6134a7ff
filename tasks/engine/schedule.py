"""The learning-rate factor: linear warm-up, then cosine, polynomial or constant (paper, appendix tables)."""

import math
from typing import Any

DECAYS = ("cosine", "polynomial", "constant")


def lr_factor(schedule: Any, step: int, num_steps: int) -> float:
    """Factor on lr for the update number `step` (from 0): exactly 0 at the first one if there is a warm-up.

    cosine: from 1 down to `final_factor` at num_steps. polynomial: (1 - progress)^power, down to `final_factor`.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if schedule.decay == "constant":
        return 1.0
    remaining = (1 + math.cos(math.pi * progress)) / 2 if schedule.decay == "cosine" else (1 - progress) ** schedule.power
    return schedule.final_factor + (1 - schedule.final_factor) * remaining
