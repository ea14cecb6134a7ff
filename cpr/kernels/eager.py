"""The path in torch's own operations: any device, dtype and layout; what the other paths are tested against.

It makes no temporary of a parameter's size (complex parameters excepted, which torch's fused Adam refuses), and its results do not depend
on the number of threads. The wrapper `CPR` takes its sums and pulls from here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from cpr.measures import MEASURES, Measure, Pull
from cpr.pack import Pack
from cpr.pieces import pieces

L2, L1, STD = (MEASURES[name].code for name in ("l2", "l1", "std"))
ORDERS = {L2: 2, L1: 1}  # R is a norm's power


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """What R of every parameter is made of: float64 [parameters, 2]; the same bits for any number of threads.

    Of L2 and L1 on a GPU one launch for all parameters, added up in float64. Elsewhere pieces of each parameter (`Measure.sums`).
    """
    if measure.code in ORDERS and parameters[0].is_cuda:
        return norm_sums(parameters, ORDERS[measure.code])
    return torch.stack([measure.sums(p) for p in parameters])


def norm_sums(parameters: Sequence[Tensor], order: int) -> Tensor:
    """Sums of |θ|^order in float64, [parameters, 2]; on a CPU, torch would copy each parameter to float64."""
    norms = torch.stack(torch._foreach_norm(list(parameters), order, dtype=torch.float64)).pow(order)
    return torch.stack([norms, torch.zeros_like(norms)], dim=1)


def pull_(parameters: list[Tensor], pull: Pull, measure: Measure) -> None:
    """The pull, in place: of L2 and std without a temporary, of L1 and Huber with one of a piece's size (cpr/pieces.py)."""
    if measure.code == L2:
        torch._foreach_mul_(parameters, pull.scale.unbind())
        return
    if measure.code == STD:
        torch._foreach_mul_(parameters, (pull.scale - pull.rate).unbind())
        torch._foreach_add_(parameters, (pull.rate * pull.center).unbind())
        return
    for parameter, scale, rate, center, limit in zip(parameters, *(numbers.unbind() for numbers in pull), strict=True):
        for piece in pieces(parameter):
            piece.mul_(scale).sub_((piece - center).clamp_(-limit, limit).mul_(rate))


def adam_(pack: Pack, grads: list[Tensor], group: dict[str, Any]) -> Tensor | None:
    """θ ← pull(θ) + Opt(g), by torch's own Adam, fused where torch can. The sums of the new θ are not taken: None."""
    pull = pack.pull_before(group)
    if pull is not None and pack.measure is not None:
        pull_(pack.tensors, pull, pack.measure)
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
