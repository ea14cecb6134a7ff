"""The keys of the task grokking."""

from pydantic import model_validator

from tasks.engine.config import Data, Task
from tasks.engine.section import AtLeastTwo, InnerShare, PositiveInt, Section, Seed


class Pairs(Data):
    modulus: AtLeastTwo
    train_fraction: InnerShare
    split_seed: Seed

    @model_validator(mode="after")
    def _has_training_pairs(self) -> "Pairs":
        if not int(self.train_fraction * (pairs := self.modulus**2)):
            raise ValueError(f"train_fraction={self.train_fraction} leaves none of {pairs} pairs for training")
        return self


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
