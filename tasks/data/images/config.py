"""The keys of image data that several tasks read."""

from typing import Literal

from tasks.engine.config import Data
from tasks.engine.section import Count, List, Number, Positive, Whole


class ArrayData(Data):
    """Images that fit in memory (`arrays.py`)."""

    name: Literal["CIFAR100", "FashionMNIST"]
    train_size: Count | None
    subset_seed: Whole
    downsample: Count
    mean: List[Number]
    std: List[Positive]
    crop_padding: Whole


class LabelledData(Data):
    """Images that are read one by one (`labelled.py`)."""

    name: Literal["ImageNet", "ImageNetParquet", "ImageNetWebDataset", "FashionMNIST"]
    train_size: Count | None
    val_size: Count | None
    subset_seed: Whole
    image_size: Count
    interpolation: str
    crop_pct: Positive
    mean: List[Number]
    std: List[Positive]
