"""The path in torch's own operations: any device, dtype and layout; what the other paths are tested against."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from cpr.measures import Measure, Pull
from cpr.pack import Pack


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """What R of every parameter is made of: float64 [parameters, 2]."""
    return torch.stack([measure.sums(p) for p in parameters])


def pull_(parameters: Sequence[Tensor], pull: Pull, measure: Measure) -> None:
    """The pull, in place. For L2 and std without a parameter-sized temporary; L1 and Huber need one matrix at a time."""
    if measure.code == 1:
        for parameter, scale in zip(parameters, pull.scale.unbind(), strict=True):
            parameter.mul_(scale)
        return
    for parameter, scale, rate, center, limit in zip(parameters, *(numbers.unbind() for numbers in pull), strict=True):
        if measure.code == 4:
            parameter.mul_(scale - rate).add_(rate * center)
        else:
            parameter.mul_(scale).sub_(rate * (parameter - center).clamp(-limit, limit))


def adam_(pack: Pack, grads: list[Tensor], group: dict[str, Any], pull: Pull | None, measure: Measure | None) -> Tensor | None:
    """θ ← pull(θ) + Opt(g), by torch's own Adam, fused where torch can. The sums of the new θ are not taken: None."""
    if pull is not None and measure is not None:
        pull_(pack.tensors, pull, measure)
    complex_ones = any(p.is_complex() for p in pack.tensors)
    beta1, beta2 = group["betas"]
    adam(
        pack.tensors,
        grads,
        pack.exp_avgs,
        pack.exp_avg_sqs,
        pack.max_exp_avg_sqs,
        pack.steps,
        fused=not complex_ones,
        has_complex=complex_ones,
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=0.0,
        eps=group["eps"],
        maximize=group["maximize"],
    )
    return None
