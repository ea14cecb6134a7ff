"""The learning-rate factor: linear warm-up, then cosine, polynomial or constant (paper, appendix tables)."""

import math
from typing import Any

from tasks.engine.errors import UserError

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


def check_schedule(schedule: Any) -> None:
    """Raises UserError for a schedule that cannot be followed."""
    if schedule.decay not in DECAYS:
        raise UserError(f"task.schedule.decay={schedule.decay!r} is unknown; choose one of {', '.join(DECAYS)}")
    if schedule.warmup_steps < 0:
        raise UserError(f"task.schedule.warmup_steps={schedule.warmup_steps} must be >= 0")
    if not 0 <= schedule.final_factor <= 1:
        raise UserError(f"task.schedule.final_factor={schedule.final_factor} must lie in [0, 1]")
