"""Encode prompts and answers, and make the training batch of a step from (seed, step) alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.engine.batching import epoch_order
from tasks.lora.questions import Question

Batch = tuple[Tensor, Tensor]
Encode = Callable[[list[str]], list[list[int]]]

IGNORED = -100  # a target outside the answer


@dataclass(frozen=True)
class Row:
    """The tokens of a prompt and an answer, which begins at index `start`."""

    tokens: list[int]
    start: int


def rows(questions: Sequence[Question], encode: Encode, most: int) -> list[Row]:
    """Return one row per question.

    Rows longer than `most` keep their last tokens, because the question is at the end of its
    prompt.

    Raises:
        ValueError: nothing is left of the prompt, or an answer adds no token to its prompt.
    """
    whole = encode([question.prompt + question.answer for question in questions])
    prompts = encode([question.prompt for question in questions])
    made = []
    for question, tokens, prompt in zip(questions, whole, prompts, strict=True):
        answer = len(tokens) - len(prompt)
        if not 0 < answer < most:
            raise ValueError(
                f"the answer {question.answer!r} has {answer} tokens beside its prompt, of at most {most} in all"
            )
        kept = tokens[-most:]
        made.append(Row(kept, len(kept) - answer))
    return made


def batch(rows: Sequence[Row], device: torch.device) -> Batch:
    """Return inputs and targets, int64 [rows, tokens], shifted by one and padded on the right.

    Only answers have targets. Tokens see no later tokens, so the padding needs no mask.
    """
    length = max(len(row.tokens) for row in rows) - 1
    inputs, targets = torch.zeros(len(rows), length, dtype=torch.int64), torch.full((len(rows), length), IGNORED)
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.tokens)
        inputs[index, : len(tokens) - 1] = tokens[:-1]
        targets[index, row.start - 1 : len(tokens) - 1] = tokens[row.start :]
    return inputs.to(device), targets.to(device)


def batches(rows: Sequence[Row], batch_size: int, seed: int, device: torch.device) -> Callable[[int], Batch]:
    """Return `batch_at(step)`. Every epoch takes every row once, in an order of its own."""
    indices = epoch_order(len(rows), batch_size, seed)
    return lambda step: batch([rows[index] for index in indices(step).tolist()], device)
