"""WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903): models between the zero-shot one and the fine-tuned one.

The tower's weights are interpolated, and the logits of the two heads. Where both heads take the same features, as with task.head=zero_shot,
that is the interpolation of all weights, since a head is linear. A random head takes other features (of any length) on another scale, so
that a mean of its weights and the zero-shot head's would be a head for neither; the mean of their logits is sound, and 0 and 1 are the two
models with either head.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.clip.model import Classifier
from tasks.engine.errors import UserError


def check(cfg: Any) -> list[float]:
    """`cfg.task.wise_ft` as numbers. Raises UserError for one outside of [0, 1], and where the model will be sharded."""
    alphas = list(cfg.task.wise_ft)
    if not all(isinstance(alpha, int | float) and not isinstance(alpha, bool) and 0 <= alpha <= 1 for alpha in alphas):
        raise UserError(
            f"task.wise_ft={alphas} must be numbers in [0, 1], 0 for the zero-shot model and 1 for the fine-tuned one"
        )
    if cfg.parallel == "fsdp" and cfg.nodes * cfg.gpus > 1:
        raise UserError("task=clip compares whole weights, which parallel=fsdp divides; use parallel=ddp")
    return [float(alpha) for alpha in alphas]


@torch.no_grad()
def interpolate(between: nn.Module, start: nn.Module, end: nn.Module, alpha: float) -> None:
    """Gives `between`, of the same shape, the weights (1 - alpha) start + alpha end; exactly those of start or end at 0 and 1."""
    for target, first, last in zip(between.parameters(), start.parameters(), end.parameters(), strict=True):
        torch.lerp(first, last, alpha, out=target.data)


@torch.no_grad()
def accuracies(
    start: Classifier, end: Classifier, alphas: Sequence[float], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[float, float]:
    """alpha -> top-1 accuracy in percent, from one pass over images [batch, 3, size, size] and classes [batch].

    start, which is the zero-shot model, and end are in evaluation mode.
    """
    between = copy.deepcopy(start.tower).requires_grad_(
        False
    )  # of weights that want gradients autocast would keep an old copy
    right: Any = 0
    count = 0
    for images, labels in batches:
        right = right + torch.stack([_right(start, end, between, alpha, images, labels) for alpha in alphas])
        count += len(labels)
    return {alpha: 100 * number / count for alpha, number in zip(alphas, right.tolist(), strict=True)}


def _right(
    start: Classifier, end: Classifier, between: nn.Module, alpha: float, images: Tensor, labels: Tensor
) -> Tensor:
    interpolate(between, start.tower, end.tower, alpha)
    features = between(images)
    logits = torch.lerp(start.head(features), end.head(features), alpha)
    return (logits.argmax(1) == labels).sum()
