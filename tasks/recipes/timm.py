"""timm's training recipe: transforms, mixing and losses of its own, with all random numbers from a given seed."""

import itertools

import torch
from timm.data import Mixup, create_transform
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from tasks.data.images.config import LabelledData
from tasks.data.images.loader import Transform
from tasks.engine.errors import UserError
from tasks.engine.seeding import derive, drawing_from
from tasks.recipes.config import Augment, Loss


def train_transform(data: LabelledData, augment: Augment) -> Transform:
    """Return timm's training transform of one image to float32 [3, size, size].

    It crops, flips, applies RandAugment, normalizes and erases.

    Raises:
        UserError: timm does not know the policy `augment.randaugment`.
    """
    try:
        return create_transform(
            data.image_size,
            is_training=True,
            scale=augment.crop_scale,
            color_jitter=augment.color_jitter,
            auto_augment=augment.randaugment,
            interpolation=data.interpolation,
            mean=tuple(data.mean),
            std=tuple(data.std),
            re_prob=augment.erasing,
            re_mode="pixel",
        )
    except (AssertionError, KeyError, ValueError) as error:
        policy = augment.randaugment
        raise UserError(
            f"task.augment.randaugment={policy} is not timm's ({error}); write rand-m9-mstd0.5 or null"
        ) from error


def eval_transform(data: LabelledData) -> Transform:
    """Return timm's transform for validation: resize, centre crop, normalization."""
    return create_transform(
        data.image_size,
        interpolation=data.interpolation,
        mean=tuple(data.mean),
        std=tuple(data.std),
        crop_pct=data.crop_pct,
    )


def criterion(cfg: Loss) -> nn.Module:
    """Return the loss of logits and soft labels, both [batch, classes].

    `cross_entropy` or `binary_cross_entropy`. The latter treats every class with a share above
    `cfg.threshold` as present.
    """
    if cfg.name == "cross_entropy":
        return SoftTargetCrossEntropy()
    return BinaryCrossEntropy(smoothing=0.0, target_threshold=cfg.threshold)


class Mixing:
    """timm's Mixup (mixup, cutmix and label smoothing) in groups of a batch, each with its own draw.

    In timm each GPU mixes its own batch. Here a group takes the place of a GPU, so the examples are
    the same for any number of processes. An example is mixed with its mirror image in the group:
    the first with the last.

    Raises:
        UserError: groups are not even or do not divide the batch.
    """

    def __init__(self, augment: Augment, num_classes: int, batch_size: int, seed: int) -> None:
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
        """Return in rising order the rows needed to mix rows begin..end: these and their mirror images."""
        mirrored = {row - row % self.group + self.group - 1 - row % self.group for row in range(begin, end)}
        return sorted(mirrored.union(range(begin, end)))

    def mix(self, step: int, rows: list[int], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images of `rows`, and return them with their soft labels [n, classes].

        `images` [n, ...] are changed in place. `rows` comes from the method of that name.
        """
        first, targets = 0, []
        for group, members in itertools.groupby(rows, lambda row: row // self.group):
            own = slice(first, first + len(list(members)))
            with drawing_from(derive(self.seed, "mix", step, group)):
                _, mixed = self._mix(images[own], labels[own])
            targets.append(mixed)
            first = own.stop
        return images, torch.cat(targets)
