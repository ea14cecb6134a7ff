"""The keys of the task cifar100c, and the corruptions there are."""

from typing import Annotated

from pydantic import AfterValidator

from tasks.engine.section import AtLeastTwo, List, NonNegativeInt, Section
from tasks.recipes.config import ResNet18Task

SEVERITIES = (1, 2, 3, 4, 5)
# Noise, blur, weather, digital: the benchmark's 15 corruptions.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
# Four more in CIFAR-100-C, meant for validation.
EXTRA = (
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
)


def _different_ones_of(known: tuple) -> AfterValidator:
    def check(values: tuple) -> tuple:
        if not values or len(set(values)) < len(values) or not set(values) <= set(known):
            raise ValueError(f"must be different ones of {', '.join(map(str, known))}")
        return values

    return AfterValidator(check)


class Corruptions(Section):
    names: Annotated[List[str], _different_ones_of(CORRUPTIONS + EXTRA)]
    severities: Annotated[List[NonNegativeInt], _different_ones_of(SEVERITIES)]
    images: AtLeastTwo | None


class Cifar100cTask(ResNet18Task):
    corruptions: Corruptions


TASK = Cifar100cTask
