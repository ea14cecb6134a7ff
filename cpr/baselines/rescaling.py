"""Adam + weight rescaling (Omnigrok, arXiv 2210.01117).

The weights' joint norm is kept at a fixed multiple of its first value.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpr.baselines.common import joint_norm, plain_adam_step
from cpr.groups import regularized_groups
from cpr.saved import check_shapes
from cpr.settings import check_adam, check_number


class RescaledAdam(torch.optim.Adam):
    """Adam that keeps the joint L2 norm of the regularized weights: w ← w·N/‖w‖₂ after every step.

    It multiplies the weights by `factor` once at the start, and N is their norm after that. The CPR
    authors' script rescales between forward and backward of the next step instead. No optimizer is
    called there, so that is left out.

    Args:
        model: its regularized parameters (cpr.groups) are rescaled, except frozen ones.
        lr, betas, eps: as in torch's Adam.
        factor: α > 0. The paper compares 0.8, 1, 2, 4, 8, 16.
        reg_embedding: whether nn.Embedding counts as a weight.
        include_norm: rescale normalization layers' weights too, as in the authors' script.

    Raises:
        ValueError: factor or include_norm out of its range.

    N is the entry `norm` of the first parameter group, in `state_dict()`.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        factor: float = 1.0,
        reg_embedding: bool = False,
        include_norm: bool = False,
    ) -> None:
        check_number("factor", factor, lambda alpha: 0 < alpha < float("inf"), "a number > 0")
        check_adam({"lr": lr, "betas": betas, "eps": eps})
        if not isinstance(include_norm, bool):
            raise ValueError(f"include_norm={include_norm!r} must be True or False")
        groups = regularized_groups(model, reg_embedding)
        super().__init__(_with_norms(model, groups) if include_norm else groups, lr=lr, betas=betas, eps=eps)
        weights = self._weights()
        with torch.no_grad():
            torch._foreach_mul_(weights, factor)
        self.param_groups[0]["norm"] = joint_norm(weights).item()

    def _weights(self) -> list[Tensor]:
        return [p for group in self.param_groups if group["regularize"] for p in group["params"] if p.requires_grad]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch does.

        Raises:
            ValueError: a moment has another shape than its parameter. The message names the moment.
        """
        check_shapes(self, state_dict)
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Do Adam's step, then rescale. Return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        plain_adam_step()(self)
        weights = self._weights()
        torch._foreach_mul_(weights, self.param_groups[0]["norm"] / joint_norm(weights))
        return loss


def _with_norms(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups with normalization layers' weights moved to the regularized one."""
    scales = {id(getattr(m, "weight", None)) for m in model.modules() if "norm" in type(m).__name__.lower()}
    parameters = [(p, group["regularize"] or id(p) in scales) for group in groups for p in group["params"]]
    split = [
        {"params": [p for p, is_in in parameters if is_in == chosen], "regularize": chosen} for chosen in (True, False)
    ]
    return [group for group in split if group["params"]]
