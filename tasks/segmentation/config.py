"""The keys of the task segmentation."""

from typing import Annotated, Literal

from pydantic import Strict

from tasks.engine.config import Data, Task
from tasks.engine.section import Count, Pair, Section, Whole


class Volumes(Data):
    name: Literal["MNI152", "Heart", "BTCV", "BraTS", "AMOS22"]


class PlanKeys(Section):
    patch: Annotated[tuple[Count, Count, Count], Strict(False)] | None
    features: Pair[Count]


class SegmentationTask(Task):
    data: Volumes
    fold: Whole | None
    folds: Count
    plan: PlanKeys
    mirror: bool
    online_batches: Count | None


TASK = SegmentationTask
