"""The single-pass kernel for CPUs (cpu.cpp), as functions on matrices. It is built on first use."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpr import bounds
from cpr.measures import Measure, Pull
from cpr.pieces import in_one_piece

DTYPES = (torch.float32, torch.bfloat16)
ADAPTIVE = {False: 0, "transition": 1, "latched": 2}


def handles(parameter: Tensor) -> bool:
    """Return whether the kernel can work on a parameter: a dtype it knows, and no gaps in memory."""
    return parameter.device.type == "cpu" and parameter.dtype in DTYPES and in_one_piece(parameter)


def layouts(parameters: list[Tensor]) -> int:
    """Return a number that is equal as long as shapes, strides, dtypes and devices are."""
    return torch.ops.cpr.layouts(parameters)


def fit(parameters: list[Tensor], gradients: list[Tensor], moments: Sequence[list[Tensor]]) -> bool:
    """Return whether gradients and moments fit their parameters.

    Gradients need the same shapes, moments also the same layouts, dtypes and devices.
    """
    return torch.ops.cpr.fit(parameters, gradients, [moment for lists in moments for moment in lists])


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """Return the sums of R, float64 [parameters, 2].

    They have the same bits as those that `adam_` leaves, for any number of threads.
    """
    out = torch.empty(len(parameters), 2, dtype=torch.float64, device="cpu")
    torch.ops.cpr.sums_(list(parameters), out, measure.code)
    return out


def refresh(m: Any) -> None:
    """Sum up the matrices changed since their last step, and those whose bound may be set now."""
    unset = ~m.scalars["kappa_set"]
    if unset.any():
        t = m.scalars["step"]
        warm_start = m.group["kappa_init_method"] == "warm_start"
        m.marks[unset & (t >= m.group["kappa_init_param"] if warm_start else t % m.group["reg_step_size"] == 0)] = 0
    torch.ops.cpr.refresh_(m.tensors, m.marks, m.sums, m.measure.code)


def constrain(m: Any) -> Pull:
    """Do what bounds.constrain does, with the same bits, without its sixty small operations."""
    pull = torch.empty(4, len(m.tensors), dtype=torch.float32, device="cpu")
    torch.ops.cpr.constrain_(m.sums, m.n, *_state(m), pull, *_bounds(m))
    return Pull(*pull)


def _state(m: Any) -> list[Any]:
    return [m.scalars.get(name) for name in ("step", *bounds.STATE)]


def _bounds(m: Any) -> list[Any]:
    """Return the settings as the kernel takes them."""
    group, measure = m.group, m.measure
    return [
        measure.code,
        bounds.METHODS.index(group["kappa_init_method"]),
        float(group["kappa_init_param"] or 0),
        int(group["reg_step_size"]),
        float(group["reg_ema_decay"]),
        float(group["kappa_update"]),
        float(group["lr"]) if group["reg_by_lr"] else 1.0,
        ADAPTIVE[group["adaptive"]],
        measure.excess if group["safeguard"] else 0.0,
    ]


def _adam(m: Any) -> list[Any]:
    group = m.group
    return [float(group["lr"]), *map(float, group["betas"]), float(group["eps"]), group["maximize"]]


def after_(m: Any) -> None:
    """Step with evaluate_at="after": update, λ from R(θ'), and the pull.

    The kernel takes some matrices at a time, so that they are still in the processor's cache when
    they are pulled.
    """
    moments = m.exp_avgs, m.exp_avg_sqs, m.max_exp_avg_sqs
    torch.ops.cpr.step_then_pull_(m.tensors, m.gradients, *moments, m.sums, m.n, *_state(m), *_bounds(m), *_adam(m))


def adam_(m: Any, pull: Pull | None) -> None:
    """θ ← pull(θ) + Opt(g) in one pass, with the sums of the new θ for regularized matrices.

    A gradient in another memory layout or dtype than its parameter is copied first, which takes
    memory for the largest such gradient. Otherwise memory grows only by 16 bytes for every 16,384
    elements.
    """
    measure = m.measure
    torch.ops.cpr.step_(
        m.tensors,
        m.gradients,
        m.exp_avgs,
        m.exp_avg_sqs,
        m.max_exp_avg_sqs,
        m.scalars["step"],
        None if pull is None else torch.stack(pull),
        None if measure is None else m.sums,
        None if measure is None else m.marks,
        0 if measure is None else measure.code,
        *_adam(m),
    )
    if m.pack.sharded:
        m.keep_sums()


def pull_(tensors: list[Tensor], pull: Pull, measure: Measure) -> None:
    """θ ← pull(θ), from the end of the matrices to their beginning, since the end was written last."""
    torch.ops.cpr.pull_(tensors, torch.stack(pull))
