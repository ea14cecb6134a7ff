"""The keys of the task cifar100."""

from typing import Literal

from tasks.engine.config import Data, Task
from tasks.engine.section import Count, List, Number, Positive, Section, Share, Whole


class ImageData(Data):
    name: Literal["CIFAR100", "FashionMNIST"]
    train_size: Count | None
    subset_seed: Whole
    downsample: Count
    mean: List[Number]
    std: List[Positive]
    crop_padding: Whole


class ResNet(Section):
    width: Count
    num_classes: Count
    in_channels: Count


class Cifar100Task(Task):
    data: ImageData
    model: ResNet
    label_smoothing: Share


TASK = Cifar100Task
