"""The keys of the recipes."""

from typing import Literal

from tasks.data.images.config import ArrayData
from tasks.engine.config import Task
from tasks.engine.section import NonNegative, Pair, PositiveInt, Section, Share


class ResNet18Shape(Section):
    width: PositiveInt
    num_classes: PositiveInt
    in_channels: PositiveInt


class ResNet18Task(Task):
    """The keys of a task that trains with `resnet18.py`."""

    data: ArrayData
    model: ResNet18Shape
    label_smoothing: Share


class Crop(Section):
    """The share of an image that a random crop has."""

    crop_scale: Pair[Share]


class Augment(Crop):
    """What timm does to training images."""

    randaugment: str | None
    color_jitter: NonNegative
    erasing: Share
    mixup: NonNegative
    cutmix: NonNegative
    cutmix_share: Share
    label_smoothing: Share
    mix_group: PositiveInt
    repeats: PositiveInt


class Loss(Section):
    name: Literal["cross_entropy", "binary_cross_entropy"]
    threshold: Share | None
