"""Report what CPR does to each matrix at this moment: R, κ and λ by name."""

from typing import Any, NamedTuple

from torch import nn

from cpr.adamcpr import AdamCPR
from cpr.measures import value_of
from cpr.wrapper import CPR


class Bound(NamedTuple):
    """The size, the bound and the multiplier of one matrix.

    Attributes:
        R: the matrix's size by its measure, per element.
        kappa: its bound κ, None until it is set.
        lam: its multiplier λ >= 0.
    """

    R: float
    kappa: float | None
    lam: float

    @property
    def is_set(self) -> bool:
        """Whether the matrix has a bound yet."""
        return self.kappa is not None

    @property
    def is_active(self) -> bool:
        """Whether the bound pulls the matrix at this moment (λ > 0)."""
        return self.lam > 0


def snapshot(optimizer: Any, model: nn.Module | None = None) -> dict[str, Bound]:
    """Return R, κ and λ of every regularized matrix by its name, in the order of the groups.

    It waits for the device, so call it for logs, not at every step. Frozen matrices that were never
    trained are left out.

    Args:
        optimizer: AdamCPR or CPR, or an optimizer that wraps one (accelerate,
            ZeroRedundancyOptimizer, schedule-free, timm's Lookahead).
        model: gives the names. AdamCPR(model) knows them. Otherwise a matrix is "parameter 3 of
            group 0".

    Raises:
        TypeError: `optimizer` holds no AdamCPR or CPR.
    """
    found = _inside(optimizer)
    names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
    rows = {}
    for number, group in enumerate(found.param_groups):
        for i, parameter in enumerate(group["params"] if group["regularize"] else ()):
            state = found.state.get(parameter, {})
            if not (parameter.requires_grad or state):
                continue
            name = names.get(id(parameter)) or found.name_at(number, i)
            rows[name if name not in rows else f"{name}, parameter {i} of group {number}"] = Bound(
                R=value_of(group["reg_function"], parameter.detach()).item(),
                kappa=float(state["kappa"]) if "kappa" in state and bool(state.get("kappa_set", False)) else None,
                lam=float(state.get("lagmul", 0.0)),
            )
    return rows


def _inside(optimizer: Any) -> AdamCPR | CPR:
    found = optimizer
    while not isinstance(found, AdamCPR | CPR):
        inner = [
            getattr(found, name) for name in ("optimizer", "optim", "base", "_base_optimizer") if hasattr(found, name)
        ]
        if not inner:
            raise TypeError(f"{type(optimizer).__name__} is neither AdamCPR nor CPR, and wraps neither")
        found = inner[0]
    return found
