"""The keys of the task imagenet."""

from typing import Any

from tasks.data.images.config import LabelledData
from tasks.engine.config import Task
from tasks.engine.section import PositiveInt, Section
from tasks.recipes.config import Augment, Loss


class TimmModel(Section):
    timm: str
    num_classes: PositiveInt
    arguments: dict[str, Any]


class ImagenetTask(Task):
    size: str
    data: LabelledData
    augment: Augment
    model: TimmModel
    loss: Loss
    channels_last: bool
    eval_batch_size: PositiveInt


TASK = ImagenetTask
