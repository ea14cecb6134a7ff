"""Adam + weight rescaling (Omnigrok, arXiv 2210.01117): the weights' joint norm is kept at a fixed multiple of its first value."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpr.groups import regularized_groups


class RescaledAdam(torch.optim.Adam):
    """Adam that multiplies the regularized weights by `factor` once and then keeps their joint L2 norm after every step.

    Args:
        model: its regularized parameters (cpr.groups) are rescaled.
        lr, betas, eps: as in torch's Adam.
        factor: α > 0; the paper compares 0.8, 1, 2, 4, 8, 16.
        reg_embedding: whether nn.Embedding counts as a weight.

    Raises:
        ValueError: factor out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        factor: float = 1.0,
        reg_embedding: bool = False,
    ) -> None:
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor={factor} must be a number > 0")
        super().__init__(regularized_groups(model, reg_embedding), lr=lr, betas=betas, eps=eps)
        weights = self._weights()
        with torch.no_grad():
            torch._foreach_mul_(weights, factor)
        # In a parameter group, so that state_dict() carries it.
        self.param_groups[0]["norm"] = _joint_norm(weights).item()

    def _weights(self) -> list[Tensor]:
        return [p for group in self.param_groups if group["regularize"] for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Adam's step, then the rescaling; returns the closure's loss, if one is given."""
        loss = super().step(closure)
        weights = self._weights()
        torch._foreach_mul_(weights, self.param_groups[0]["norm"] / _joint_norm(weights))
        return loss


def _joint_norm(weights: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(weights)).square().sum().sqrt()
