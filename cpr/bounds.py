"""The upper bound κ of a matrix: when it is set, and to what (paper, section 4.3).

A bound is a small state machine over (t, R(θ_t)), t being the number of updates the matrix has received. Its state lies
in the optimizer's per-parameter state as 0-dim tensors on the parameter's device, so that no step waits for the host. The
functions here see the state of many matrices at once, as vectors:

    kappa        R, κ: same unit, per element; meaningless while kappa_set is False
    kappa_set    bool; an explicit flag, because every number is a possible κ
    sample, growth, smoothed      inflection point only: R_{m-1}, R_{m-1} - R_{m-2} and the moving average of R
    was_active   adaptive="latched" only: whether the multiplier has ever been positive

| kappa_init_method | rule | kappa_init_param |
| --- | --- | --- |
| uniform (Kappa-K) | κ = kappa_init_param for every matrix | κ > 0 |
| dependent (Kappa-kI0) | κ = k · R(θ_0) | k > 0 |
| warm_start (Kappa-WS) | κ = R(θ_s), nothing happens before (Algorithm 2) | s >= 0, in updates |
| inflection_point (Kappa-IP) | κ = R(θ_i) at the first sample m >= 4 that grew less than the sample before | none |

IP samples R every `reg_step_size` updates; the paper takes 10 % of the learning-rate warm-up. A bound of zero would
forbid any weight: kI0 of a matrix that starts at zero is an error, and WS and IP wait until R > 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

METHODS = ("uniform", "dependent", "warm_start", "inflection_point")
FIRST_DECIDING_SAMPLE = 4


def initial_state(group: dict[str, Any], parameters: Sequence[Tensor], value: Tensor) -> dict[str, Tensor]:
    """The bounds' state at t = 0, `value` being R(θ_0) of every matrix [matrices].

    Raises ValueError for kI0 on a matrix that is zero.
    """
    method, zero = group["kappa_init_method"], torch.zeros_like(value)
    if method == "uniform":
        kappa = torch.full_like(value, group["kappa_init_param"])
    elif method == "dependent":
        for number in (value == 0).nonzero()[:1].flatten().tolist():
            raise ValueError(
                f"kappa_init_method='dependent' bounds a matrix by a multiple of its initial size, and the one of shape "
                f"{tuple(parameters[number].shape)} starts at zero; use 'warm_start' or 'inflection_point'"
            )
        kappa = group["kappa_init_param"] * value
    else:
        kappa = zero
    state = {"kappa": kappa, "kappa_set": torch.full_like(value, method in ("uniform", "dependent"), dtype=torch.bool)}
    if method == "inflection_point":
        # Infinite: the first two samples, also those after another Adam's steps, have no growth to be compared with.
        state |= {"sample": torch.full_like(value, torch.inf), "growth": torch.full_like(value, -torch.inf)}
        if group["reg_ema_decay"] > 0:
            state["smoothed"] = value.clone()
    if group["adaptive"] == "latched":
        state["was_active"] = torch.zeros_like(state["kappa_set"])
    return state


def observe(group: dict[str, Any], state: dict[str, Tensor], t: Tensor, value: Tensor) -> None:
    """Shows R(θ_t) to the bounds, which may be set by it; t counts each matrix's own updates."""
    if group["kappa_init_method"] == "warm_start":
        _set_once(state, (t >= group["kappa_init_param"]) & (value > 0), value)
    elif group["kappa_init_method"] == "inflection_point":
        _observe_inflection(group, state, t, value)


def _observe_inflection(group: dict[str, Any], state: dict[str, Tensor], t: Tensor, value: Tensor) -> None:
    sample = value
    if group["reg_ema_decay"] > 0:
        sample = state["smoothed"].lerp_(value, 1 - group["reg_ema_decay"])
    interval = group["reg_step_size"]
    sampled = (t > 0) & (t % interval == 0)
    growth = sample - state["sample"]
    decides = sampled & (t >= FIRST_DECIDING_SAMPLE * interval)
    _set_once(state, decides & (growth < state["growth"]) & (value > 0), value)
    state["growth"].copy_(torch.where(sampled, growth, state["growth"]))
    state["sample"].copy_(torch.where(sampled, sample, state["sample"]))


def _set_once(state: dict[str, Tensor], condition: Tensor, value: Tensor) -> None:
    now = condition & ~state["kappa_set"]
    state["kappa"].copy_(torch.where(now, value, state["kappa"]))
    state["kappa_set"].logical_or_(now)


def adapt(group: dict[str, Any], state: dict[str, Tensor], before: Tensor, after: Tensor, value: Tensor) -> None:
    """AdaCPR (Algorithm 3): lowers κ to R(θ_t) when the multiplier has gone from `before` > 0 to `after` = 0.

    "transition" does so at that moment (the paper); "latched" also at every later step with a zero multiplier, and never
    raises κ (the behaviour of the authors' early code).
    """
    mode = group["adaptive"]
    if not mode:
        return
    rests = (after == 0) & (value > 0)
    if mode == "transition":
        kappa = torch.where(rests & (before > 0), value, state["kappa"])
    else:
        state["was_active"].logical_or_(after > 0)
        kappa = torch.where(rests & state["was_active"], torch.minimum(state["kappa"], value), state["kappa"])
    state["kappa"].copy_(kappa)
