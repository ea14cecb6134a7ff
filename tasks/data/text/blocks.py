"""Cut tokens into blocks, and make the training batch of a step from (seed, step) alone."""

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
    """Blocks of `context` tokens, each with the next token. Inputs and targets are shifted by one."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self.tokens, self.context = tokens, context
        self.count = (len(tokens) - 1) // context
        if self.count < 1:
            raise UserError(
                f"the data has {len(tokens)} tokens, fewer than one block of task.model.context={context} + 1"
            )

    def batch(self, indices: list[int], device: torch.device) -> Batch:
        """Return inputs and targets, int64 [len(indices), context]."""
        rows = np.stack([self.tokens.read(index * self.context, self.context + 1) for index in indices]).astype(
            np.int64
        )
        block = torch.from_numpy(rows)
        # The copy then overlaps with the device's work.
        if device.type == "cuda":
            block = block.pin_memory().to(device, non_blocking=True)
        return block[:, :-1], block[:, 1:]


def batches(blocks: Blocks, batch_size: int, seed: int, device: torch.device) -> Callable[[int], Batch]:
    """Return `batch_at(step)`. Every epoch reads every block once, in an order of its own."""
    indices = epoch_order(blocks.count, batch_size, seed)
    return lambda step: blocks.batch(indices(step).tolist(), device)


def in_order(blocks: Blocks, batch_size: int, most: int | None, device: torch.device) -> Iterator[Batch]:
    """Yield the first `most` blocks (None: all), `batch_size` at a time."""
    count = blocks.count if most is None else min(most, blocks.count)
    for start in range(0, count, batch_size):
        yield blocks.batch(list(range(start, min(start + batch_size, count))), device)
