"""WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903): models between the zero-shot and the fine-tuned one.

The tower's weights are interpolated, and the logits of the two heads. With task.head=zero_shot both
heads take the same features. Interpolating their logits then equals interpolating all weights,
since a head is linear.

A random head takes other features (of any length) on another scale. A mean of its weights and the
zero-shot head's would fit neither. The mean of their logits is sound, and 0 and 1 give the two
models with either head.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.clip.config import ClipTask
from tasks.clip.model import Classifier
from tasks.engine.config import Config
from tasks.engine.errors import UserError


def alphas_of(cfg: Config[ClipTask]) -> list[float]:
    """Return `cfg.task.wise_ft`, or raise UserError if the model will be sharded."""
    if cfg.parallel == "fsdp" and cfg.nodes * cfg.gpus > 1:
        raise UserError("task=clip compares whole weights, which parallel=fsdp divides; use parallel=ddp")
    return [float(alpha) for alpha in cfg.task.wise_ft]


@torch.no_grad()
def interpolate(between: nn.Module, start: nn.Module, end: nn.Module, alpha: float) -> None:
    """Set the weights of `between` to (1 - alpha) start + alpha end, exactly those of start or end at 0 and 1."""
    for target, first, last in zip(between.parameters(), start.parameters(), end.parameters(), strict=True):
        torch.lerp(first, last, alpha, out=target.data)


@torch.no_grad()
def accuracies(
    start: Classifier, end: Classifier, alphas: Sequence[float], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[float, float]:
    """Return alpha -> top-1 accuracy in percent, from one pass over the batches.

    Args:
        start: the zero-shot model, in evaluation mode.
        end: the fine-tuned model, in evaluation mode.
        alphas: shares of the fine-tuned model.
        batches: images [batch, 3, size, size] and classes [batch].
    """
    # autocast would keep an old copy of weights that require gradients.
    between = copy.deepcopy(start.tower).requires_grad_(False)
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
