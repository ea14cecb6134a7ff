"""Adam with AWD, adaptive weight decay (arXiv 2210.00094): the decay is a fixed share of the gradient's norm."""

from typing import Any

import torch
from torch import Tensor

from cpr.adamcpr import Params
from cpr.baselines.adam_with_decay import AdamWithDecay
from cpr.baselines.common import joint_norm

SCOPES = ("global", "tensor")


class AdamAWD(AdamWithDecay):
    """θ ← θ − η·a − η·λ̄_t·θ, with λ̄_t = 0.1·λ̄_{t−1} + 0.9·λ_t and λ̄_0 = 0.

    λ_t = λ_awd·‖g‖₂ / ‖θ‖₂ is a constant of the step, and 0 where ‖θ‖ is 0. The norms are joint ones
    over all regularized weights that have a gradient. g is the gradient that the optimizer receives.
    0.9 weights the new value. The formula is that of two implementations that cite AWD. They differ
    in the norms' scope.

    AWD is written for SGD, where the decay is part of the gradient. Here it is decoupled by default,
    as in AdamW. The CPR paper does not say so, but its results are flat over three decades of λ_awd.
    A coupled term of a tenth of the gradient would not give that. Neither `torch-optimizer` 0.3.0
    nor `pytorch_optimizer` 4.1.0 has a class for AWD.

    Args:
        params, lr, betas, eps, reg_embedding: see AdamWithDecay.
        weight_decay: λ_awd >= 0. The paper compares 1e-4 to 1e-1.
        coupled: Adam gets the gradient g + λ̄_t·θ instead, and nothing is decayed beside it.
        scope: norms and λ̄ "global", or per "tensor".

    Raises:
        ValueError: see AdamWithDecay, or `coupled` or `scope` is out of its range.

    λ̄ is the group's entry `mean_decay`, in `state_dict()`: one 0-dim tensor (global), or one per
    parameter of the group. It is float32 beside bfloat16 weights.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        coupled: bool = False,
        scope: str = "global",
        reg_embedding: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, reg_embedding, coupled=coupled, scope=scope)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not isinstance(group["coupled"], bool):
            raise ValueError(f"coupled={group['coupled']!r} must be True or False")
        if group["scope"] not in SCOPES:
            raise ValueError(f"scope={group['scope']!r} is unknown; choose one of {', '.join(SCOPES)}")
        if group["regularize"]:
            group.setdefault(
                "mean_decay", [torch.zeros(())] * (1 if group["scope"] == "global" else len(group["params"]))
            )

    def _update(self) -> None:
        received = [
            (weight, weight.grad) for group, weights in self._decayed() if group["coupled"] for weight in weights
        ]
        super()._update()
        for weight, gradient in received:
            weight.grad = gradient

    def _decay(self) -> None:
        decayed = [(group, weights) for group, weights in self._decayed() if weights]
        if not decayed:
            return
        joint = decay_ratio([weight for _, weights in decayed for weight in weights])
        for group, weights in decayed:
            if group["scope"] == "global":
                rates = self._mean_decay(group, [0], [joint]) * len(weights)
            else:
                places = [i for i, p in enumerate(group["params"]) if p.grad is not None]
                rates = self._mean_decay(group, places, [decay_ratio([weight]) for weight in weights])
            for weight, rate in zip(weights, rates, strict=True):
                if group["coupled"]:
                    assert weight.grad is not None
                    weight.grad = weight.grad + rate * weight
                else:
                    weight.mul_(1 - group["lr"] * rate)

    def _mean_decay(self, group: dict[str, Any], places: list[int], ratios: list[Tensor]) -> list[Tensor]:
        """Return the new λ̄ at `places`.

        The group gets a new list, so that an earlier state_dict doesn't change.
        """
        group["mean_decay"] = list(group["mean_decay"])
        for place, ratio in zip(places, ratios, strict=True):
            before = group["mean_decay"][place]
            mean = 0.1 * before + 0.9 * (group["decay"] * ratio)
            # One NaN gradient must not stay in the mean.
            group["mean_decay"][place] = torch.where(mean.isfinite(), mean, before)
        return [group["mean_decay"][place] for place in places]


def decay_ratio(weights: list[Tensor]) -> Tensor:
    """Return ‖g‖₂ / ‖θ‖₂ over all of the weights, 0-dim, in float32 at least, or 0 if θ is 0."""
    gradient, size = joint_norm([weight.grad for weight in weights if weight.grad is not None]), joint_norm(weights)
    return torch.where(size > 0, gradient / size, 0)
