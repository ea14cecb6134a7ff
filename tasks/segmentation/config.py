"""The keys of the task segmentation."""

from typing import Annotated, Literal

from pydantic import Strict

from tasks.engine.config import Data, Task
from tasks.engine.section import NonNegativeInt, Pair, PositiveInt, Section


class Volumes(Data):
    name: Literal["MNI152", "Heart", "BTCV", "BraTS", "AMOS22"]


class PlanKeys(Section):
    patch: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Strict(False)] | None
    features: Pair[PositiveInt]


class SegmentationTask(Task):
    data: Volumes
    fold: NonNegativeInt | None
    folds: PositiveInt
    plan: PlanKeys
    mirror: bool
    online_batches: PositiveInt | None


TASK = SegmentationTask
