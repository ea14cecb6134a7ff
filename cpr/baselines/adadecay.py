"""Adam with AdaDecay (arXiv 1907.08931): elements with larger gradients in their matrix decay more."""

from typing import Any

import torch
from torch import Tensor

from cpr.adamcpr import Params
from cpr.baselines.adam_with_decay import AdamWithDecay
from cpr.settings import check_number

SMALLEST_STD = 1e-8


class AdamAdaDecay(AdamWithDecay):
    """θ_i ← θ_i − η·a_i − η·wd·φ_i·θ_i, with φ_i = 2 / (1 + exp(−α·z_i)) and z_i = (|g_i| − mean|g|) / std|g|.

    φ_i is in (0, 2). Mean and population standard deviation are over the elements of the matrix, the
    latter at least 1e-8. g is the gradient that the optimizer receives (after any clipping). α = 0 is
    AdamW.

    AdaDecay is written for SGD, where the decay is part of the gradient. Beside Adam it is decoupled,
    as in AdamW. The CPR paper does not say so, but its perplexities with AdaDecay follow those of
    AdamW at the same weight decay (Table H.1). With a coupled term they would not. Neither
    `torch-optimizer` 0.3.0 nor `pytorch_optimizer` 4.1.0 has a class for AdaDecay.

    Args:
        params, lr, betas, eps, reg_embedding: see AdamWithDecay.
        weight_decay: wd >= 0. The paper compares 1e-4 to 1e-1.
        alpha: α >= 0, how much gradients matter. The paper compares 1, 2, 4 and 8 (Figure E.7).
            AdaDecay's authors take 4.

    Raises:
        ValueError: see AdamWithDecay.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        alpha: float = 4.0,
        reg_embedding: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, reg_embedding, alpha=alpha)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number("alpha", group["alpha"], lambda alpha: 0 <= alpha < float("inf"), "a number >= 0")

    def _decay(self) -> None:
        for group, weights in self._decayed():
            for weight in weights:
                assert weight.grad is not None
                weight.mul_(1 - group["lr"] * group["decay"] * decay_factors(weight.grad, group["alpha"]))


def decay_factors(gradient: Tensor, alpha: float) -> Tensor:
    """Return φ of every element, in (0, 2) and 1 for a gradient of mean size."""
    size = gradient.abs()
    std, mean = torch.std_mean(size, correction=0)
    return 2 * torch.sigmoid(alpha * (size - mean) / std.clamp(min=SMALLEST_STD))
