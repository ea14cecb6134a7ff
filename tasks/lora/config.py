"""The keys of the task lora."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.engine.config import Data, SmallModel, Task
from tasks.engine.section import List, Positive, PositiveInt, Section, Seed


class QuestionData(Data):
    name: str
    train_size: PositiveInt | None
    subset_seed: Seed
    answers: Annotated[List[str], Field(min_length=1)]
    max_tokens: PositiveInt


class SmallMistral(SmallModel):
    """The model that replaces Mistral-7B at mini scale, with its text and questions."""

    text: str
    questions: str
    question_every: PositiveInt
    width: PositiveInt
    mlp_width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    vocabulary: PositiveInt
    context: PositiveInt

    @model_validator(mode="after")
    def _heads_fit(self) -> "SmallMistral":
        if self.width % (2 * self.heads):
            raise ValueError(f"width={self.width} must be a multiple of 2 x heads={self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        return self


class Adapters(Section):
    r: PositiveInt
    alpha: Positive
    targets: Annotated[List[str], Field(min_length=1)]


class LoraTask(Task):
    data: QuestionData
    small: SmallMistral | None
    lora: Adapters
    eval_batch_size: PositiveInt
    eval_blocks: PositiveInt | None
    harness: List[Literal["arithmetic", "mmlu", "piqa", "truthfulqa"]]


TASK = LoraTask
