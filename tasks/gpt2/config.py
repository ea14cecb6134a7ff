"""The keys of the task gpt2."""

from typing import Literal

from pydantic import Field, model_validator

from tasks.engine.config import Data, Task
from tasks.engine.section import BelowOne, NonNegativeInt, PositiveInt, Section, Share


class Text(Data):
    name: str
    vocabulary: PositiveInt


class Shape(Section):
    """The shape of a GPT-2. The paper's shapes are in configs/task/gpt2*.yaml."""

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    context: PositiveInt = 1024
    vocabulary: PositiveInt = Field(default=50264, description="rows of the embedding. The last ones may be padding")
    positions: Literal["rotary", "learned"] = "rotary"
    rotary_fraction: Share = Field(default=0.5, description="share of a head's features that is rotated")
    dropout: BelowOne = 0.1
    init: Literal["normal", "uniform"] = Field(
        default="normal", description="N(0, 0.02^2) or U(-0.02, 0.02) for every matrix. Biases start at zero"
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> "Shape":
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        if self.rotated % 2 or not 0 < self.rotated:
            features = f"an even number of a head's {self.width // self.heads} features"
            raise ValueError(f"rotary_fraction={self.rotary_fraction} must give {features}")
        return self

    @property
    def rotated(self) -> int:
        """Return how many features of each head are rotated."""
        return int(self.rotary_fraction * (self.width // self.heads))

    def flops_per_token(self) -> float:
        """Return the FLOP of forward and backward per token: 6 for each weight, 12 for attention.

        Model FLOPs utilization counts them in this way (PaLM, Appendix B).
        """
        weights = 12 * self.layers * self.width**2 + self.vocabulary * self.width
        return 6 * weights + 12 * self.layers * self.width * self.context


class Gpt2Task(Task):
    size: str = Field(description="the paper's name of the model")
    data: Text
    model: Shape
    loss_chunk: PositiveInt
    eval_batch_size: PositiveInt
    eval_blocks: PositiveInt | None
    sample_tokens: NonNegativeInt

    @model_validator(mode="after")
    def _model_knows_every_token(self) -> "Gpt2Task":
        if self.model.vocabulary < self.data.vocabulary:
            raise ValueError(
                f"model.vocabulary={self.model.vocabulary} must be at least task.data.vocabulary={self.data.vocabulary}"
            )
        return self


TASK = Gpt2Task
