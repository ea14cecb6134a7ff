"""The keys of image data that several tasks read."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.engine.config import Data
from tasks.engine.section import (
    AtLeastTwo,
    List,
    NonNegativeInt,
    Number,
    Positive,
    PositiveInt,
    PositiveShare,
    Seed,
    Share,
    Triple,
    shown_as,
)

# Edge in pixels, channels and classes.
SHAPES = {"CIFAR100": (32, 3, 100), "FashionMNIST": (28, 1, 10)}


class ArrayData(Data):
    """Images that fit in memory (`arrays.py`)."""

    name: Literal["CIFAR100", "FashionMNIST"]
    train_size: PositiveInt | None
    subset_seed: Seed
    downsample: PositiveInt
    mean: Annotated[List[Number], Field(min_length=1, description="of each channel; grey images get as many channels")]
    std: List[Positive]
    crop_padding: NonNegativeInt
    label_noise: Share = 0.0  # share of training labels that are wrong: the same ones for every run

    @model_validator(mode="after")
    def _fits_the_images(self) -> "ArrayData":
        edge, channels, _ = SHAPES[self.name]
        if channels > 1 and len(self.mean) != channels:
            raise ValueError(
                f"mean={shown_as(self.mean)} must have a value for each of {self.name}'s {channels} channels"
            )
        if len(self.std) != len(self.mean):
            raise ValueError(f"std={shown_as(self.std)} must have as many values as mean")
        if (left := edge // self.downsample) < 1:
            raise ValueError(f"downsample={self.downsample} must be at most {self.name}'s {edge} pixels")
        if self.crop_padding >= left:
            raise ValueError(f"crop_padding={self.crop_padding} must be less than the images' {left} pixels")
        return self


class LabelledData(Data):
    """Images that are read one by one (`labelled.py`)."""

    name: Literal["ImageNet", "ImageNetParquet", "ImageNetWebDataset", "FashionMNIST"]
    train_size: PositiveInt | None
    val_size: AtLeastTwo | None = Field(description="scores are also taken on two halves")
    subset_seed: Seed
    image_size: PositiveInt
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
    crop_pct: PositiveShare
    mean: Triple[Number]
    std: Triple[Positive]
