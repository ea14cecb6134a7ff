"""The path in torch's own operations, for any device, dtype and layout.

The other paths are tested against it.

Its temporaries are smaller than a parameter, with two exceptions: complex parameters, and tensors
with different memory layouts, which torch's fused Adam does not understand. Its results do not
depend on the number of threads. The wrapper `CPR` takes its sums and pulls from here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from cpr import bounds
from cpr.measures import MEASURES, Measure, Pull
from cpr.pieces import in_one_piece, laid_out_alike, pieces

L2, L1, STD = (MEASURES[name].code for name in ("l2", "l1", "std"))
ORDERS = {L2: 2, L1: 1}  # the sum of R is a power of this norm


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """Return the sums of R, float64 [parameters, 2], with the same bits for any number of threads.

    L2 and L1 on a GPU take one launch for all parameters, added up in float64. Everything else is
    summed piece by piece for each parameter (`Measure.sums`).
    """
    if measure.code in ORDERS and parameters[0].is_cuda:
        return norm_sums(parameters, ORDERS[measure.code])
    return torch.stack([measure.sums(p) for p in parameters])


def norm_sums(parameters: Sequence[Tensor], order: int) -> Tensor:
    """Return the sums of |θ|^order in float64, [parameters, 2].

    On a CPU, torch would copy each parameter to float64.
    """
    norms = torch.stack(torch._foreach_norm(list(parameters), order, dtype=torch.float64)).pow(order)
    return torch.stack([norms, torch.zeros_like(norms)], dim=1)


def refresh(m: Any) -> None:
    """Sum up all matrices, whether they have changed or not."""
    m.sums.copy_(sums(m.tensors, m.measure))


def constrain(m: Any) -> Pull:
    """Call bounds.constrain."""
    return bounds.constrain(m.group, m.scalars, m.scalars["step"], m.sums, m.n)


def pull_(parameters: list[Tensor], pull: Pull, measure: Measure) -> None:
    """θ ← pull(θ).

    L2 and std need no temporary, L1 and Huber one of a piece's size (cpr/pieces.py).
    """
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


def adam_(m: Any, pull: Pull | None) -> None:
    """θ ← pull(θ), then torch's own Adam.

    It is fused if all tensors of a parameter lie alike in memory, else it goes one by one.
    """
    if pull is not None:
        pull_(m.tensors, pull, m.measure)
    lists = [m.tensors, m.gradients, m.exp_avgs, m.exp_avg_sqs, m.max_exp_avg_sqs]
    lists[1] = [g if g.dtype == p.dtype else g.to(p.dtype) for p, g in zip(m.tensors, m.gradients, strict=True)]
    steps = m.steps
    alike = [_alike(*tensors) for tensors in zip(*(tensors for tensors in lists if tensors), strict=True)]
    for fused in (True, False):
        chosen = [i for i, one in enumerate(alike) if one == fused]
        if chosen:
            _adam(
                m.group,
                [[tensors[i] for i in chosen] if tensors else [] for tensors in lists],
                [steps[i] for i in chosen],
                fused,
            )
    if m.pack.after:
        refresh(m)


def _alike(p: Tensor, *others: Tensor) -> bool:
    """Return whether torch's fused Adam can take the tensors.

    It goes through memory from the first element to the last.
    """
    return not p.is_complex() and in_one_piece(p) and all(laid_out_alike(p, other) for other in others)


def _adam(group: dict[str, Any], lists: list[list[Tensor]], steps: list[Tensor], fused: bool) -> None:
    beta1, beta2 = group["betas"]
    capturable = not fused and steps[0].is_cuda
    tensors, gradients, exp_avgs, exp_avg_sqs, max_exp_avg_sqs = lists
    adam(
        tensors,
        gradients,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        steps,
        fused=fused,
        foreach=False,
        capturable=capturable,
        has_complex=any(p.is_complex() for p in tensors),
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=0.0,
        eps=group["eps"],
        maximize=group["maximize"],
    )
