"""The keys of image data that several tasks read."""

from typing import Literal

from tasks.engine.config import Data
from tasks.engine.section import List, NonNegativeInt, Number, Positive, PositiveInt, Share


class ArrayData(Data):
    """Images that fit in memory (`arrays.py`)."""

    name: Literal["CIFAR100", "FashionMNIST"]
    train_size: PositiveInt | None
    subset_seed: NonNegativeInt
    downsample: PositiveInt
    mean: List[Number]
    std: List[Positive]
    crop_padding: NonNegativeInt
    label_noise: Share = 0.0  # share of training labels that are wrong: the same ones for every run


class LabelledData(Data):
    """Images that are read one by one (`labelled.py`)."""

    name: Literal["ImageNet", "ImageNetParquet", "ImageNetWebDataset", "FashionMNIST"]
    train_size: PositiveInt | None
    val_size: PositiveInt | None
    subset_seed: NonNegativeInt
    image_size: PositiveInt
    interpolation: str
    crop_pct: Positive
    mean: List[Number]
    std: List[Positive]
