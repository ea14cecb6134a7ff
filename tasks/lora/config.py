"""The keys of the task lora."""

from typing import Annotated, Literal

from pydantic import Field

from tasks.engine.config import Data, Task
from tasks.engine.section import Count, List, NonNegative, Positive, Section, Whole


class Questions(Data):
    name: Literal["PubMedQA", "Plays"]
    train_size: Count | None
    subset_seed: Whole
    answers: Annotated[List[str], Field(min_length=1)]
    max_tokens: Count


class SmallMistral(Section):
    """The base model of LoRA at mini scale, with what determines its weights."""

    text: str
    questions: str
    width: Count
    mlp_width: Count
    layers: Count
    heads: Count
    kv_heads: Count
    vocabulary: Count
    context: Count
    batch_size: Count
    steps: Count
    question_every: Count
    lr: NonNegative
    weight_decay: NonNegative
    warmup_steps: Whole
    seed: Whole


class Adapters(Section):
    r: Count
    alpha: Positive
    targets: Annotated[List[str], Field(min_length=1)]


class LoraTask(Task):
    data: Questions
    small: SmallMistral | None
    lora: Adapters
    eval_batch_size: Count
    eval_blocks: Count | None
    harness: List[Literal["arithmetic", "mmlu", "piqa", "truthfulqa"]]


TASK = LoraTask
