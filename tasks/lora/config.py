"""The keys of the task lora."""

from typing import Annotated, Literal

from pydantic import Field

from tasks.engine.config import Data, SmallModel, Task
from tasks.engine.section import Count, List, Positive, Section, Whole


class QuestionData(Data):
    name: str
    train_size: Count | None
    subset_seed: Whole
    answers: Annotated[List[str], Field(min_length=1)]
    max_tokens: Count


class SmallMistral(SmallModel):
    """The model that replaces Mistral-7B at mini scale, with its text and questions."""

    text: str
    questions: str
    question_every: Count
    width: Count
    mlp_width: Count
    layers: Count
    heads: Count
    kv_heads: Count
    vocabulary: Count
    context: Count


class Adapters(Section):
    r: Count
    alpha: Positive
    targets: Annotated[List[str], Field(min_length=1)]


class LoraTask(Task):
    data: QuestionData
    small: SmallMistral | None
    lora: Adapters
    eval_batch_size: Count
    eval_blocks: Count | None
    harness: List[Literal["arithmetic", "mmlu", "piqa", "truthfulqa"]]


TASK = LoraTask
