"""The learning-rate factor: linear warm-up, then cosine, polynomial or constant (paper, appendix tables)."""

import math

from tasks.engine.config import Schedule


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Return the factor on lr for update number `step` (from 0).

    A warm-up begins at `start_factor`, or at 0 without one. The decays are:

    - cosine: from 1 down to `final_factor` at num_steps.
    - polynomial: (1 - progress)^power, down to `final_factor`.

    Progress counts from the end of the warm-up. With `warmup_prefix: false` (timm's name) it counts
    from step 0, so the decay has already begun when the warm-up ends.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        start = schedule.start_factor or 0.0
        return start + (1 - start) * step / warmup
    begin = warmup if schedule.warmup_prefix else 0
    progress = (step - begin) / max(1, num_steps - begin)
    if schedule.decay == "constant":
        return 1.0
    remaining = (
        (1 + math.cos(math.pi * progress)) / 2 if schedule.decay == "cosine" else (1 - progress) ** schedule.power
    )
    return schedule.final_factor + (1 - schedule.final_factor) * remaining
