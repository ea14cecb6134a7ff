"""What is done to images and labels, with timm's own parts, and every random number from a seed that is given."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from PIL.Image import Image
from timm.data import Mixup, create_transform
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from tasks.engine.errors import UserError
from tasks.engine.seeding import derive, drawing_from

Transform = Callable[[Image], Tensor]


def train_transform(data: Any, augment: Any) -> Transform:
    """timm's training transform: crop, flip, RandAugment, normalization and erasing of one image; float32 [3, size, size]."""
    return create_transform(
        data.image_size,
        is_training=True,
        scale=tuple(augment.crop_scale),
        color_jitter=augment.color_jitter,
        auto_augment=augment.randaugment,
        interpolation=data.interpolation,
        mean=tuple(data.mean),
        std=tuple(data.std),
        re_prob=augment.erasing,
        re_mode="pixel",
    )


def eval_transform(data: Any) -> Transform:
    """timm's transform for validation: resize, centre crop, normalization."""
    return create_transform(
        data.image_size,
        interpolation=data.interpolation,
        mean=tuple(data.mean),
        std=tuple(data.std),
        crop_pct=data.crop_pct,
    )


def criterion(cfg: Any) -> nn.Module:
    """The loss of logits and soft labels, both [batch, classes]: `cross_entropy` or `binary_cross_entropy`.

    The latter takes every class with a share above `cfg.threshold` as present. Raises UserError for another name.
    """
    if cfg.name == "cross_entropy":
        return SoftTargetCrossEntropy()
    if cfg.name == "binary_cross_entropy":
        return BinaryCrossEntropy(smoothing=0.0, target_threshold=cfg.threshold)
    raise UserError(f"task.loss.name={cfg.name!r} is unknown; choose cross_entropy or binary_cross_entropy")


class Mixing:
    """timm's Mixup (mixup, cutmix and label smoothing) in groups of a batch, each with a draw of its own.

    In timm each GPU mixes its own batch; here a group stands for that, so that the examples are the same for every number of processes.
    An example is mixed with its mirror image in the group: the first with the last.

    Raises UserError unless groups are even and divide the batch.
    """

    def __init__(self, augment: Any, num_classes: int, batch_size: int, seed: int) -> None:
        self.batch_size, self.group, self.seed = batch_size, min(augment.mix_group, batch_size), seed
        if self.group % 2 or batch_size % self.group:
            raise UserError(f"task.augment.mix_group={self.group} must be even and divide task.batch_size={batch_size}")
        self._mix = Mixup(
            mixup_alpha=augment.mixup,
            cutmix_alpha=augment.cutmix,
            prob=1.0 if augment.mixup or augment.cutmix else 0.0,
            switch_prob=augment.cutmix_share,
            label_smoothing=augment.label_smoothing,
            num_classes=num_classes,
        )

    def rows(self, begin: int, end: int) -> list[int]:
        """In rising order, the rows of the batch that its rows begin..end are mixed from: themselves and their mirror images."""
        mirrored = {row - row % self.group + self.group - 1 - row % self.group for row in range(begin, end)}
        return sorted(mirrored.union(range(begin, end)))

    def mix(self, step: int, rows: list[int], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`images` [n, ...], which are changed, mixed, and soft labels [n, classes], for the n rows that `rows` gave."""
        first, targets = 0, []
        for group, members in itertools.groupby(rows, lambda row: row // self.group):
            own = slice(first, first + len(list(members)))
            with drawing_from(derive(self.seed, "mix", step, group)):
                _, mixed = self._mix(images[own], labels[own])
            targets.append(mixed)
            first = own.stop
        return images, torch.cat(targets)
