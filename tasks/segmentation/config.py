"""The keys of the task segmentation."""

from typing import ClassVar, Literal

from pydantic import model_validator

from tasks.engine.config import Data, Task
from tasks.engine.section import AtLeastTwo, NonNegativeInt, Pair, PositiveInt, Section, Triple


class Volumes(Data):
    name: Literal["MNI152", "Heart", "BTCV", "BraTS", "AMOS22"]


class PlanKeys(Section):
    patch: Triple[PositiveInt] | None
    features: Pair[PositiveInt]


class SegmentationTask(Task):
    one_process: ClassVar[bool] = True  # nnU-Net would split the batch once more
    data: Volumes
    fold: NonNegativeInt | None
    folds: AtLeastTwo
    plan: PlanKeys
    mirror: bool
    online_batches: PositiveInt | None

    @model_validator(mode="after")
    def _has_the_fold(self) -> "SegmentationTask":
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(
                f"fold={self.fold} must be a whole number from 0 to {self.folds - 1}, or null for the seed's own"
            )
        return self


TASK = SegmentationTask
