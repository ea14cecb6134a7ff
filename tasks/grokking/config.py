"""The keys of the task grokking."""

from typing import Annotated

from pydantic import Field, model_validator

from tasks.engine.config import Data, Task
from tasks.engine.section import NonNegativeInt, Number, PositiveInt, Section


class Pairs(Data):
    modulus: PositiveInt
    train_fraction: Annotated[Number, Field(gt=0, lt=1)]
    split_seed: NonNegativeInt


class DecoderShape(Section):
    width: PositiveInt
    heads: PositiveInt
    mlp_factor: PositiveInt

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "DecoderShape":
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of task.model.heads={self.heads}")
        return self


class GrokkingTask(Task):
    data: Pairs
    model: DecoderShape


TASK = GrokkingTask
