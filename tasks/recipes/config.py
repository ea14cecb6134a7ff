"""The keys of the recipes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from tasks.data.images.config import SHAPES, ArrayData
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

    @model_validator(mode="after")
    def _model_fits_the_data(self) -> "ResNet18Task":
        classes = SHAPES[self.data.name][2]
        if self.model.num_classes < classes:
            raise ValueError(
                f"model.num_classes={self.model.num_classes} must be at least the {classes} of {self.data.name}"
            )
        if self.model.in_channels != len(self.data.mean):
            channels = len(self.data.mean)
            raise ValueError(
                f"model.in_channels={self.model.in_channels} must be {channels}, as task.data.mean has values"
            )
        return self


def _rising(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError("must be a smallest share > 0 and a largest one that is not below it")
    return scale


class Crop(Section):
    """The share of an image that a random crop has."""

    crop_scale: Annotated[Pair[Share], AfterValidator(_rising)]


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
