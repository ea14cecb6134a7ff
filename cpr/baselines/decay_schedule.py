"""AdamW whose weight decay follows a cosine over the whole run (Figure E.4)."""

import math
from typing import Any

import torch

from cpr.adamcpr import Params
from cpr.baselines.adam_with_decay import AdamWithDecay
from cpr.settings import check_number


def cosine_weight_decay(step: int, total_steps: int, weight_decay: float, final_factor: float) -> float:
    """Return wd_t = wd_0 · [s + (1 − s)·(1 + cos(π·t/T)) / 2].

    It goes from wd_0 at t = 0 to s·wd_0 at t = T and after, without a warm-up. `step` is t, the
    number of finished updates. `total_steps` T, `weight_decay` wd_0 and `final_factor` s are as in
    DecayScheduledAdamW.
    """
    progress = min(step / total_steps, 1)
    return weight_decay * (final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2)


class DecayScheduledAdamW(AdamWithDecay):
    """θ ← θ − η·a − η·wd_t·θ with wd_t of `cosine_weight_decay`.

    The decay is still multiplied by lr, which has a schedule of its own. Source: the CPR authors'
    CIFAR-100 script of their versions 0.1 and 0.2. Figure E.4 compares s = 0.1 and 0.01 (decreasing),
    10 and 100 (increasing). s = 1 is AdamW to the bit.

    Args:
        params, lr, betas, eps, reg_embedding: see AdamWithDecay.
        total_steps: T >= 1, the updates of the run.
        weight_decay: wd_0 >= 0. The paper compares 1e-4 to 1e-1.
        final_factor: s >= 0.

    Raises:
        ValueError: see AdamWithDecay, or `total_steps` or `final_factor` is out of its range.

    t is the group's entry `finished_steps`, in `state_dict()`. A group added later starts at t = 0.
    """

    def __init__(
        self,
        params: Params,
        total_steps: int,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        final_factor: float = 0.1,
        reg_embedding: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, reg_embedding, total_steps=total_steps, final_factor=final_factor
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(
            "total_steps",
            group["total_steps"],
            lambda steps: 1 <= steps < float("inf") and steps % 1 == 0,
            "a whole number >= 1",
        )
        check_number("final_factor", group["final_factor"], lambda factor: 0 <= factor < float("inf"), "a number >= 0")
        group.setdefault("finished_steps", 0)

    def _decay(self) -> None:
        for group, weights in self._decayed():
            decay = cosine_weight_decay(
                group["finished_steps"], group["total_steps"], group["decay"], group["final_factor"]
            )
            if weights:
                torch._foreach_mul_(weights, 1 - group["lr"] * decay)
            group["finished_steps"] += 1
