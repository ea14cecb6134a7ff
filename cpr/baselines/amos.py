"""AMOS (arXiv 2210.11693): Adam-like steps whose length and weight decay fade over training.

The rule of fading follows from the size that each parameter is expected to have.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr.adamcpr import Params
from cpr.groups import regularized_groups
from cpr.saved import restore
from cpr.settings import check_lr, check_number, require_regularized, require_said

SMALLEST_V = 2.0**-125


class AMOS(Optimizer):
    """AMOS with an extra L2 term, which the CPR paper sweeps as its weight decay.

    v is a running mean of squared gradients and b a decay, both one number per parameter with
    v_0 = b_0 = 0. ξ is lr. One step:

        q = mean(g²)        v ← β·v + (1 − β)·q        v̂ = max(v, 2⁻¹²⁵) / (1 − βᵗ)
        c = (1 + ζ·√ξ·b)^(−1/2)        d = 1 / (1 + ζ·√(ξη)·b)        γ = c·ξ²·q / v̂
        θ ← θ − d·[ξη·g/√v̂ + (γ/2 + extra_l2)·θ]        b ← b + γ·(1 + b)

    η is the size that the parameter is expected to have, `expected_scale`. As in the authors'
    `jestimator`, γ is part of the rule for every parameter, biases and norms included. `extra_l2`,
    which a user sets as a weight decay, acts on regularized groups only. It is multiplied by d, but
    not by lr. Two options of `jestimator` are left out: v and b per row or element, and a moving
    average of the updates.

    `pytorch_optimizer.Amos` (2.10 to 4.1.0), which the CPR paper's sweep fits, is unfaithful in two points:
      - The bracket holds ½·(γ − extra_l2)·θ. The wrong sign lets extra_l2 grow the weights by a
        factor of about 1 + extra_l2/2 a step. `legacy_sign=True` does the same.
      - η of a convolution takes the number of input channels for the fan-in and ignores the size of
        the kernel.
    It also applies extra_l2 to biases and norms. With extra_l2 = 0 and without convolutions it does
    the same as this class. The CPR paper cites the library `torch-optimizer`, but its version 0.3.0
    is older than AMOS.

    Args:
        params: a model, or parameter groups with the key `regularize: bool` wherever extra_l2 is to
            act. cpr.groups says which parameters of a model are regularized.
        lr: ξ >= 0. Its authors recommend about 1/√(batches of an epoch).
        beta: β in [0, 1). Its authors recommend 1 − β of about the size of lr.
        zeta: ζ >= 0, how fast lr and decay fade.
        extra_l2: the paper's "weight decay" of 1e-6 to 1e-2, >= 0.
        legacy_sign: use the sign of extra_l2 in `pytorch_optimizer`.
        reg_embedding: whether nn.Embedding counts as a weight (only if `params` is a model).

    Raises:
        ValueError: an argument out of its range, extra_l2 without anything to regularize, or a complex parameter.

    State of a parameter: `step`, `second_moment` (v) and `fading` (b). The last two are 0-dim and
    float32 at least. All of it is in `state_dict()`.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        beta: float = 0.999,
        zeta: float = 0.25,
        extra_l2: float = 0.0,
        legacy_sign: bool = False,
        reg_embedding: bool = False,
    ) -> None:
        if isinstance(params, nn.Module):
            params = regularized_groups(params, reg_embedding)
        super().__init__(
            params, {"lr": lr, "beta": beta, "zeta": zeta, "extra_l2": extra_l2, "legacy_sign": legacy_sign}
        )
        if extra_l2:
            require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Its key `regularize` says whether extra_l2 acts on its parameters."""
        if param_group.get("extra_l2", self.defaults["extra_l2"]):
            require_said(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("regularize", False)
        check_lr(group["lr"])
        for name in ("zeta", "extra_l2"):
            check_number(name, group[name], lambda value: 0 <= value < float("inf"), "a number >= 0")
        check_number("beta", group["beta"], lambda beta: 0 <= beta < 1, "a number in [0, 1)")
        if not isinstance(group["legacy_sign"], bool):
            raise ValueError(f"legacy_sign={group['legacy_sign']!r} must be True or False")
        if any(p.is_complex() for p in group["params"]):
            raise ValueError("AMOS takes real parameters only")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient. Return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group, self._state(parameter))
        return loss

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            zero = torch.zeros((), dtype=dtype, device=parameter.device)
            state |= {"step": torch.tensor(0.0), "second_moment": zero, "fading": zero.clone()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch does, with v and b kept in their own precision."""
        super().load_state_dict(state_dict)
        restore(self, state_dict, names=("second_moment", "fading"))


def update(parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
    """Do the step in AMOS' docstring on one parameter, in place."""
    v, b, lr, beta, zeta = state["second_moment"], state["fading"], group["lr"], group["beta"], group["zeta"]
    rate = lr * expected_scale(parameter)
    state["step"] += 1

    q = torch.linalg.vector_norm(gradient, dtype=v.dtype).square() / gradient.numel()
    v.mul_(beta).add_(q, alpha=1 - beta)
    v_hat = v.clamp(min=SMALLEST_V) / (1 - beta ** int(state["step"]))
    c = (1 + zeta * math.sqrt(lr) * b).rsqrt()
    d = 1 / (1 + zeta * math.sqrt(rate) * b)
    gamma = c * lr**2 * q / v_hat

    shrink = gamma / 2
    if group["regularize"]:
        shrink = shrink - group["extra_l2"] / 2 if group["legacy_sign"] else shrink + group["extra_l2"]
    parameter.mul_(1 - d * shrink).addcmul_(gradient, d * rate * v_hat.rsqrt(), value=-1)
    b.add_(gamma * (1 + b))


def expected_scale(parameter: Tensor) -> float:
    """Return η: 0.5 for vectors and numbers, √(2 / fan-in) for matrices, √(1 / fan-in) for convolutions.

    The fan-in of a convolution includes its kernel.
    """
    if parameter.ndim < 2:
        return 0.5
    fan_in = math.prod(parameter.shape[1:])
    return math.sqrt((2 if parameter.ndim == 2 else 1) / fan_in)
