"""The keys of the task imagenet."""

from typing import Any, Literal

from tasks.engine.config import Data, Task
from tasks.engine.section import Count, List, NonNegative, Number, Pair, Positive, Section, Share, Whole


class ImageData(Data):
    name: Literal["ImageNet", "ImageNetParquet", "ImageNetWebDataset", "FashionMNIST"]
    train_size: Count | None
    val_size: Count | None
    subset_seed: Whole
    image_size: Count
    interpolation: str
    crop_pct: Positive
    mean: List[Number]
    std: List[Positive]


class Augment(Section):
    crop_scale: Pair[Share]
    randaugment: str | None
    color_jitter: NonNegative
    erasing: Share
    mixup: NonNegative
    cutmix: NonNegative
    cutmix_share: Share
    label_smoothing: Share
    mix_group: Count
    repeats: Count


class Model(Section):
    timm: str
    num_classes: Count
    arguments: dict[str, Any]


class Loss(Section):
    name: Literal["cross_entropy", "binary_cross_entropy"]
    threshold: Share | None


class ImagenetTask(Task):
    size: str
    data: ImageData
    augment: Augment
    model: Model
    loss: Loss
    channels_last: bool
    eval_batch_size: Count


TASK = ImagenetTask
