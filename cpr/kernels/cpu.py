"""The single-pass kernel for CPUs (cpu.cpp), as functions on packs; builds it on first use."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpr.measures import Measure
from cpr.pack import Pack
from cpr.pieces import in_one_piece

DTYPES = (torch.float32, torch.bfloat16)


def handles(parameter: Tensor) -> bool:
    """Whether the kernel can work on a parameter: its elements lie in one piece of memory, in a dtype that it knows."""
    return parameter.device.type == "cpu" and parameter.dtype in DTYPES and in_one_piece(parameter)


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """What R of every parameter is made of: float64 [parameters, 2]; the same bits as `adam_` returns, for any number of threads."""
    out = torch.empty(len(parameters), 2, dtype=torch.float64)
    torch.ops.cpr.sums_(list(parameters), out, measure.code)
    return out


def adam_(pack: Pack, grads: list[Tensor], group: dict[str, Any]) -> Tensor | None:
    """θ ← pull(θ) + Opt(g) in one pass; returns the sums of the new θ, of a regularized pack.

    A gradient in another memory layout or dtype than its parameter is copied first: memory for the largest such gradient. Nothing else
    is made that grows with the parameters but 16 bytes for every 16,384 elements.
    """
    measure, pull = pack.measure, pack.pull_before(group)
    out = None if measure is None else torch.empty(len(grads), 2, dtype=torch.float64)
    torch.ops.cpr.step_(
        pack.tensors,
        grads,
        pack.exp_avgs,
        pack.exp_avg_sqs,
        pack.max_exp_avg_sqs,
        pack.scalars["step"],
        None if pull is None else torch.stack(pull),
        out,
        0 if measure is None else measure.code,
        float(group["lr"]),
        *group["betas"],
        group["eps"],
        group["maximize"],
    )
    torch.autograd.graph.increment_version(pack.tensors)
    return out
