"""κ and λ: when a matrix's bound is set, how its multiplier moves, and the pull that follows.

See section 4 and Algorithms 1 to 3 of the paper. Every function here works on all matrices of a
group at once, as vectors, in torch's own operations. The kernels hold the same rules in C++
(`constrain` in kernels/cpu.cpp) and in Triton (kernels/triton_pull.py). cpr/reference.py holds them
for one matrix in plain Python.

The state of the matrices is one vector [matrices] per entry. It is on the parameters' device, so no
step waits for the host:

    lagmul       λ >= 0 (the key is the authors')
    kappa        κ, in the unit of R, per element. Meaningless while kappa_set is False
    kappa_set    bool, an explicit flag because every number is a possible κ
    sample, growth, smoothed      inflection point only: R_{m-1}, R_{m-1} - R_{m-2} and the moving average of R
    was_active   adaptive="latched" only: whether λ has ever been positive

| kappa_init_method | rule | kappa_init_param |
| --- | --- | --- |
| uniform (Kappa-K) | κ = kappa_init_param for every matrix | κ > 0 |
| dependent (Kappa-kI0) | κ = k · R(θ_0) | k > 0 |
| warm_start (Kappa-WS) | κ = R(θ_s), nothing happens before (Algorithm 2) | s >= 0, in updates |
| inflection_point (Kappa-IP) | κ = R(θ_i) at the first sample m >= 4 that grew less than the sample before | none |

IP samples R every `reg_step_size` updates. The paper takes 10 % of the learning-rate warm-up. A
bound of zero would forbid any weight. So kI0 raises an error for a matrix that starts at zero, and
WS and IP wait until R > 0.

A matrix that holds a NaN or an infinity has no R. Its λ, κ and samples stay as they are until R is
finite again.

The safeguard. Between two updates of λ, think of time as continuous and take L2 with ρ = ln R. Then
dρ/dt = -4 λ and dλ/dt = μ (R - κ). The quantity 2 λ² + μ κ (x - ln x), x = R/κ, is conserved: CPR is
a pendulum with the potential V(x) = x - ln x - 1. A matrix released at x comes down to the x' < 1
with V(x') = V(x). The reason is that λ winds up while x > 1 and then falls by at most μ κ a step.
Near the bound that is harmless (x = 1.01 comes down to 0.99). But x = 10⁴ comes down to e^-9991: the
matrix is crushed. And in discrete steps a λ above 1/2 turns the matrix's signs. With L1 and std the
pull does not shrink with the matrix, which makes them harmonic oscillators. Released at x, they come
down to the mirror image 2 - x, and nothing is left at x = 2. Hence two rules:
  1. A matrix beyond `Measure.excess` times its bound (4 for L2 and Huber, 1.5 for L1 and std) is put
     onto its bound in one pull, and λ stands still. The pull is saturated, so the integrator must
     not wind up.
  2. One pull removes at most half of a matrix: λ is kept at or below `Measure.most`.
Every other matrix is released, with λ = 0, at x <= 4 or, for L1 and std, x <= 1.5. Without any
gradient it then comes down to x' = 0.08, or to 0.5, at worst. If a lasting gradient has held λ up at
a large lr, λ still swings lower when the gradient stops. In the paper's runs x stays below 2.5 (the
first convolution under Kappa-K 0.005) and λ near 1e-4. There neither rule acts, and the arithmetic
is the same to the last
bit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpr.measures import MEASURES, Pull

METHODS = ("uniform", "dependent", "warm_start", "inflection_point")
FIRST_DECIDING_SAMPLE = 4
# State of a parameter beside its count of steps. torch's load_state_dict would cast it to the
# parameter's dtype, such as bfloat16.
STATE = ("lagmul", "kappa", "kappa_set", "sample", "growth", "smoothed", "was_active")


def state_names(group: dict[str, Any]) -> tuple[str, ...]:
    """Return the entries of STATE that a group's settings need, in the order of STATE.

    A group that is not regularized needs none.
    """
    if not group["regularize"]:
        return ()
    inflection = group["kappa_init_method"] == "inflection_point"
    return (
        *("lagmul", "kappa", "kappa_set"),
        *(("sample", "growth") if inflection else ()),
        *(("smoothed",) if inflection and group["reg_ema_decay"] > 0 else ()),
        *(("was_active",) if group["adaptive"] == "latched" else ()),
    )


def initial_state(group: dict[str, Any], parameters: Sequence[Tensor], value: Tensor) -> dict[str, Tensor]:
    """Return the state at t = 0.

    Args:
        group: the settings.
        parameters: the matrices, for messages.
        value: R(θ_0) of every matrix [matrices].

    Raises:
        ValueError: kI0 on a matrix that is zero.
    """
    method, zero = group["kappa_init_method"], torch.zeros_like(value)
    if method == "uniform":
        kappa = torch.full_like(value, group["kappa_init_param"])
    elif method == "dependent":
        for number in (value == 0).nonzero()[:1].flatten().tolist():
            raise ValueError(
                f"kappa_init_method='dependent' bounds a matrix by a multiple of its initial size, and the one of shape "
                f"{tuple(parameters[number].shape)} starts at zero. Use 'warm_start' or 'inflection_point'"
            )
        kappa = group["kappa_init_param"] * value
    else:
        kappa = zero
    state = {"lagmul": zero, "kappa": kappa}
    state["kappa_set"] = torch.full_like(value, method in ("uniform", "dependent"), dtype=torch.bool)
    if method == "inflection_point":
        # Infinite, because the first two samples have no growth to be compared with. That holds
        # after another Adam's steps too.
        state |= {"sample": torch.full_like(value, torch.inf), "growth": torch.full_like(value, -torch.inf)}
        if group["reg_ema_decay"] > 0:
            state["smoothed"] = value.clone()
    if group["adaptive"] == "latched":
        state["was_active"] = torch.zeros_like(state["kappa_set"])
    return state


def constrain(group: dict[str, Any], state: dict[str, Tensor], t: Tensor, sums: Tensor, n: Tensor) -> Pull:
    """Move κ and λ of all matrices by one step, in place, and return the pull (Algorithm 1).

    Args:
        group: the settings.
        state: see the top of this file.
        t: the updates that each θ has received [matrices].
        sums: the sums that R(θ) is made of, float64 [matrices, 2].
        n: elements of each matrix, float64 [matrices].
    """
    measure = MEASURES[group["reg_function"]]
    kappa, active, old = state["kappa"], state["kappa_set"], state["lagmul"]
    value = measure.value(sums, n).to(old.dtype)  # R(θ)
    finite = value.isfinite()
    _observe(group, state, t, value, finite)
    scale = group["lr"] if group["reg_by_lr"] else 1.0

    new = (old + group["kappa_update"] * (value - kappa)).clamp(min=0)  # λ_{t+1} = max(0, λ_t + μ (R(θ_t) - κ))
    saturated = torch.zeros_like(active)
    if group["safeguard"]:
        saturated = active & finite & (value > measure.excess * kappa)
        if isinstance(scale, Tensor) or scale > 0:
            new = torch.fmin(new, measure.most(value, n) / scale)  # R = 0 or lr = 0 sets no limit
        new = torch.where(saturated, old, new)
    new = torch.where(active, torch.where(finite, new, old), 0)

    shrink = torch.where(saturated, (kappa / value).pow(1 / measure.degree), 1)
    pull = measure.pull(torch.where(saturated, 0, scale * new), shrink, value, sums, n)
    _adapt(group, state, before=old, after=new, value=value, finite=finite)
    old.copy_(new)
    return pull


def _observe(group: dict[str, Any], state: dict[str, Tensor], t: Tensor, value: Tensor, finite: Tensor) -> None:
    """Set the bounds that R(θ_t) decides."""
    if group["kappa_init_method"] == "warm_start":
        _set_once(state, (t >= group["kappa_init_param"]) & (value > 0) & finite, value)
    elif group["kappa_init_method"] == "inflection_point":
        _observe_inflection(group, state, t, value, finite)


def _observe_inflection(
    group: dict[str, Any], state: dict[str, Tensor], t: Tensor, value: Tensor, finite: Tensor
) -> None:
    sample = value
    if group["reg_ema_decay"] > 0:
        smoothed = state["smoothed"]
        sample = smoothed.copy_(torch.where(finite, smoothed.lerp(value, 1 - group["reg_ema_decay"]), smoothed))
    interval = group["reg_step_size"]
    sampled = (t > 0) & (t % interval == 0) & finite
    growth = sample - state["sample"]
    decides = sampled & (t >= FIRST_DECIDING_SAMPLE * interval)
    _set_once(state, decides & (growth < state["growth"]) & (value > 0), value)
    state["growth"].copy_(torch.where(sampled, growth, state["growth"]))
    state["sample"].copy_(torch.where(sampled, sample, state["sample"]))


def _set_once(state: dict[str, Tensor], condition: Tensor, value: Tensor) -> None:
    now = condition & ~state["kappa_set"]
    state["kappa"].copy_(torch.where(now, value, state["kappa"]))
    state["kappa_set"].logical_or_(now)


def _adapt(
    group: dict[str, Any], state: dict[str, Tensor], before: Tensor, after: Tensor, value: Tensor, finite: Tensor
) -> None:
    """Lower κ to R(θ_t) when λ has gone from `before` > 0 to `after` = 0 (AdaCPR, Algorithm 3).

    "transition" does so at that moment (the paper). "latched" also does so at every later step with
    λ = 0, and never raises κ (the authors' early code).
    """
    mode = group["adaptive"]
    if not mode:
        return
    rests = (after == 0) & (value > 0) & finite
    if mode == "transition":
        kappa = torch.where(rests & (before > 0), value, state["kappa"])
    else:
        state["was_active"].logical_or_(after > 0)
        kappa = torch.where(rests & state["was_active"], torch.minimum(state["kappa"], value), state["kappa"])
    state["kappa"].copy_(kappa)
