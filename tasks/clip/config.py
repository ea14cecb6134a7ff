"""The keys of the task clip."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks.data.images.config import LabelledData
from tasks.engine.config import SmallModel, Task
from tasks.engine.section import List, Number, Positive, PositiveInt, Section, Seed, Share, Triple
from tasks.recipes.config import Crop


class SmallClip(SmallModel):
    """The model that replaces OpenAI's at mini scale, with its images and captions."""

    images: PositiveInt
    subset_seed: Seed
    mean: Triple[Number]
    std: Triple[Positive]
    classes: List[str]
    templates: List[str]
    unnamed: List[str]
    shape: dict[str, Any] = Field(description="arguments of open_clip.CLIP")


def _has_a_place(templates: tuple[str, ...]) -> tuple[str, ...]:
    if not templates or not all("{}" in template for template in templates):
        raise ValueError("must be a list of sentences with {} for the name, or openai")
    return templates


class ZeroShot(Section):
    classes: Literal["imagenet"] | Annotated[List[str], Field(min_length=1)]
    templates: Literal["openai"] | Annotated[List[str], AfterValidator(_has_a_place)]


class ClipTask(Task):
    data: LabelledData
    augment: Crop
    architecture: str
    checkpoint: str | None
    small: SmallClip | None
    head: Literal["random", "zero_shot"]
    zero_shot: ZeroShot
    wise_ft: List[Share] = Field(description="0 is the zero-shot model, 1 the fine-tuned one")
    eval_batch_size: PositiveInt


TASK = ClipTask
