"""The augmented Lagrangian step on one matrix (paper, Algorithm 1), shared by `AdamCPR` and the wrapper `CPR`.

    λ_{t+1} = max(0, λ_t + μ (R(θ_t) - κ))          θ ← θ - λ_{t+1} ∇R          R, κ per element; see measures.py

The safeguard. Between two updates of λ, think of time as continuous and take L2 with ρ = ln R: then dρ/dt = -4 λ and
dλ/dt = μ (R - κ). The quantity 2 λ² + μ κ (x - ln x), x = R/κ, is conserved: CPR is a pendulum whose deflection is V(x) =
x - ln x - 1. A matrix released at x comes down to the x' < 1 with V(x') = V(x), since λ, wound up while x > 1, falls by at
most μ κ a step. Near the bound that is harmless (x = 1.01 comes down to 0.99); but x = 10⁴ comes down to e^-9991: crushed.
And in discrete steps a λ above 1/2 turns the matrix's signs. L1 and std, whose pull does not shrink with the matrix, are harmonic
oscillators: released at x they come down to the mirror image 2 - x, which is nothing left at x = 2. So
  1. a matrix beyond `Measure.excess` times its bound (4 for L2 and Huber, 1.5 for L1 and std) is put onto its bound in one pull
     and λ stands still: the pull is saturated, so the integrator must not wind up;
  2. one pull takes away half of a matrix at most: λ is kept at or below `Measure.most`.
What is left is released, with λ = 0, at x <= 4 and comes down to x' = 0.08 at worst, or at x <= 1.5 to 0.5, without any gradient.
(A λ that a lasting gradient has held up at a large lr still swings lower when the gradient stops.) In the
paper's runs x stays below 2.5 (the first convolution under Kappa-K 0.005) and λ near 1e-4: there neither rule acts, and
the arithmetic is the same to the last bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cpr import bounds
from cpr.measures import MEASURES, Pull, value_of

# Per-parameter state that torch.optim.Optimizer.load_state_dict would cast to the parameter's dtype (bfloat16, say).
STATE = ("lagmul", "kappa", "kappa_set", "sample", "growth", "smoothed", "was_active")
EVALUATE_AT = ("before", "after")
ADAPTIVE = (False, "transition", "latched")


def checked_defaults(
    *,
    kappa_init_method: str,
    kappa_init_param: float | None,
    reg_function: str,
    kappa_update: float,
    reg_step_size: int,
    reg_ema_decay: float,
    reg_by_lr: bool,
    evaluate_at: str,
    adaptive: str | bool,
    safeguard: bool,
) -> dict[str, Any]:
    """CPR's entries of a parameter group, checked.

    Raises ValueError that names the argument, its value and its range.
    """
    group = dict(locals())
    if kappa_init_method == "warm_start" and kappa_init_param is None:
        group["kappa_init_param"] = 1000
    check_group(group)
    return group


def check_group(group: dict[str, Any]) -> None:
    """Raises ValueError for a CPR setting out of its range."""
    for name, choices in (
        ("kappa_init_method", bounds.METHODS),
        ("reg_function", tuple(MEASURES)),
        ("evaluate_at", EVALUATE_AT),
        ("adaptive", ADAPTIVE),
    ):
        if group[name] not in choices:
            raise ValueError(f"{name}={group[name]!r} is unknown; choose one of {', '.join(map(str, choices))}")
    for name in ("reg_by_lr", "safeguard"):
        if not isinstance(group[name], bool):
            raise ValueError(f"{name}={group[name]!r} must be True or False")
    method, parameter = group["kappa_init_method"], group["kappa_init_param"]
    if parameter is not None and not isinstance(parameter, int | float):
        raise ValueError(f"kappa_init_param={parameter!r} must be a number")
    if method in ("uniform", "dependent") and not (parameter is not None and 0 < parameter < float("inf")):
        raise ValueError(f"kappa_init_param={parameter} must be a number > 0 with kappa_init_method={method!r}")
    if method == "warm_start" and not (parameter is not None and parameter >= 0 and float(parameter).is_integer()):
        raise ValueError(f"kappa_init_param={parameter} must be a whole number of steps >= 0 with kappa_init_method='warm_start'")
    if not 0 < group["kappa_update"] < float("inf"):
        raise ValueError(f"kappa_update={group['kappa_update']} must be a number > 0")
    if not (group["reg_step_size"] >= 1 and float(group["reg_step_size"]).is_integer()):
        raise ValueError(f"reg_step_size={group['reg_step_size']} must be a whole number of steps >= 1")
    if not 0 <= group["reg_ema_decay"] < 1:
        raise ValueError(f"reg_ema_decay={group['reg_ema_decay']} must lie in [0, 1)")


def prepare_group(group: dict[str, Any]) -> None:
    """Settles `regularize` and refuses what CPR cannot do.

    A group without `regularize` but with a weight decay, as torch users build them, is regularized where the decay is not
    zero; the decay itself becomes zero, since CPR replaces it.
    Raises ValueError for weight decay beside `regularize`, for complex parameters, and for std of a single number.
    """
    decay = group.get("weight_decay", 0)
    if decay != 0 and "regularize" in group:
        raise ValueError(
            f"weight_decay={decay} on a group with regularize={group['regularize']}: CPR replaces weight decay; set it to 0 "
            "(torch's AdamW and Muon decay unless told otherwise)"
        )
    group.setdefault("regularize", decay != 0)
    if "weight_decay" in group:
        group["weight_decay"] = 0.0
    check_group(group)
    if not group["regularize"]:
        return
    for parameter in group["params"]:
        if parameter.is_complex():
            raise ValueError("CPR regularizes real parameters only; put complex ones in a group with regularize=False")
        if group["reg_function"] == "std" and parameter.numel() < 2:
            raise ValueError("reg_function='std' needs matrices of at least two elements")


def require_regularized(groups: Iterable[dict[str, Any]]) -> None:
    """Raises ValueError if no group is regularized: an optimizer that silently does nothing of what its name says."""
    if not any(group["regularize"] and group["params"] for group in groups):
        raise ValueError(
            "no parameter is regularized; pass the model itself, or groups with regularize=True (cpr.regularized_groups(model) makes them)"
        )


def start(group: dict[str, Any], parameters: Sequence[Tensor], value: Tensor) -> dict[str, Tensor]:
    """The constraints' state for R(θ_0) = value [matrices], as vectors: kI0 takes its bound here, before the first update."""
    return {"lagmul": torch.zeros_like(value)} | bounds.initial_state(group, parameters, value)


def pull(group: dict[str, Any], state: dict[str, Tensor], t: Tensor, sums: Tensor, n: Tensor) -> Pull:
    """The multipliers' update and the pull that follows from it, for all matrices of a group at once; changes `state`.

    t [m]: the updates that each θ has received; sums [m, 2] and n [m]: what R(θ) is made of (measures.py).
    """
    measure = MEASURES[group["reg_function"]]
    kappa, active, old = state["kappa"], state["kappa_set"], state["lagmul"]
    value = measure.value(sums, n).to(old.dtype)
    bounds.observe(group, state, t, value)
    scale = group["lr"] if group["reg_by_lr"] else 1.0

    new = (old + group["kappa_update"] * (value - kappa)).clamp(min=0)
    saturated = torch.zeros_like(active)
    if group["safeguard"]:
        saturated = active & (value > measure.excess * kappa)
        if isinstance(scale, Tensor) or scale > 0:
            new = torch.fmin(new, measure.most(value, n) / scale)  # of R = 0 and lr = 0 there is no limit
        new = torch.where(saturated, old, new)
    new = torch.where(active, new, 0)

    shrink = torch.where(saturated, (kappa / value).pow(1 / measure.degree), 1)
    applied = measure.pull(torch.where(saturated, 0, scale * new), shrink, value, sums, n)
    bounds.adapt(group, state, before=old, after=new, value=value)
    old.copy_(new)
    return applied


def regularized(optimizer: Optimizer) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Every regularized parameter with its group, in order."""
    for group in optimizer.param_groups:
        if group["regularize"]:
            for parameter in group["params"]:
                yield parameter, group


def snapshot(optimizer: Optimizer) -> list[dict[str, float | None]]:
    """R, κ (None while unset) and λ of every regularized matrix, in order; waits for the device, so call it to log only."""
    rows: list[dict[str, float | None]] = []
    for parameter, group in regularized(optimizer):
        state = optimizer.state.get(parameter, {})
        is_set = bool(state["kappa_set"]) if "kappa_set" in state else False
        rows.append(
            {
                "R": value_of(group["reg_function"], parameter.detach()).item(),
                "kappa": state["kappa"].item() if is_set else None,
                "lambda": state["lagmul"].item() if "lagmul" in state else 0.0,
            }
        )
    return rows


def restore_state(optimizer: Optimizer, saved: dict[str, Any], names: Iterable[str] = STATE) -> None:
    """Puts the named scalars (CPR's by default) back in their own dtype after torch's load_state_dict has cast them to the parameter's."""
    identifiers = [i for group in saved["param_groups"] for i in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for identifier, parameter in zip(identifiers, parameters, strict=True):
        for name, value in saved["state"].get(identifier, {}).items():
            if name in names:
                optimizer.state[parameter][name] = value.detach().clone().to(parameter.device)
