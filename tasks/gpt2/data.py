"""Blocks of tokens, and the training batch of a step as a pure function of (seed, step)."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tasks.engine.batching import epoch_order
from tasks.engine.errors import UserError

Batch = tuple[Tensor, Tensor]


class Tokens(Protocol):
    """A long sequence of token ids on disk."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> np.ndarray: ...


class Blocks:
    """The sequence cut into blocks of `context` tokens, each with the token behind it: inputs and targets are shifted by one."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self.tokens, self.context = tokens, context
        self.count = (len(tokens) - 1) // context
        if self.count < 1:
            raise UserError(
                f"the data has {len(tokens)} tokens, fewer than one block of task.model.context={context} + 1"
            )

    def batch(self, indices: list[int], device: torch.device) -> Batch:
        """Inputs and targets, int64 [len(indices), context]."""
        rows = np.stack([self.tokens.read(index * self.context, self.context + 1) for index in indices]).astype(
            np.int64
        )
        block = torch.from_numpy(rows)
        if device.type == "cuda":  # the copy then goes on while the device is still at work
            block = block.pin_memory().to(device, non_blocking=True)
        return block[:, :-1], block[:, 1:]


def batches(blocks: Blocks, batch_size: int, seed: int, device: torch.device) -> Callable[[int], Batch]:
    """`batch_at(step)`: every epoch reads every block once, in an order of its own."""
    indices = epoch_order(blocks.count, batch_size, seed)
    return lambda step: blocks.batch(indices(step).tolist(), device)


def in_order(blocks: Blocks, batch_size: int, most: int | None, device: torch.device) -> Iterator[Batch]:
    """The first `most` blocks (all for None), `batch_size` at a time."""
    count = blocks.count if most is None else min(most, blocks.count)
    for start in range(0, count, batch_size):
        yield blocks.batch(list(range(start, min(start + batch_size, count))), device)
