"""Which examples are in the batch of a step, a pure function of (seed, step), and which of them a process takes at a time."""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tasks.engine.seeding import generator_for


def epoch_order(
    count: int, batch_size: int, seed: int, *, drop_last: bool = False, repeats: int = 1
) -> Callable[[int], Tensor]:
    """`indices(step)`: every epoch is a permutation of `count` examples; its last, partial batch is kept, unless `drop_last`.

    repeats: an epoch, as long as before, has each example that many times in a row (repeated augmentation), and so a part of them only.
    """
    steps_per_epoch = count // batch_size if drop_last else -(-count // batch_size)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        permutation = torch.randperm(count, generator=generator_for(seed, "epoch", epoch))
        return permutation.repeat_interleave(repeats)[:count]

    def indices(step: int) -> Tensor:
        epoch, number = divmod(step, steps_per_epoch)
        return order(epoch)[number * batch_size : (number + 1) * batch_size]

    return indices


def pieces(batch: Any, rank: int = 0, world: int = 1, micro_batch: int | None = None) -> list[tuple[Any, float]]:
    """Process `rank`'s part of a global batch in pieces of at most `micro_batch` examples, each with its share of the batch.

    A batch is a tuple of batches, or something with a length and slices, such as a tensor, whose dimension 0 counts examples. Every
    process gets as many pieces as every other, however many examples there are: one without any gets an example of others, with the
    share 0.
    """
    count = size_of(batch)
    passes = 1 if micro_batch is None else -(-count // (world * micro_batch))
    parts = world * passes
    bounds = [number * count // parts for number in range(parts + 1)][rank * passes : (rank + 1) * passes + 1]
    return [
        (_cut(batch, *((begin, end) if end > begin else (0, 1))), (end - begin) / count)
        for begin, end in pairwise(bounds)
    ]


def size_of(batch: Any) -> int:
    """How many examples are in a batch."""
    return size_of(batch[0]) if isinstance(batch, tuple) else len(batch)


def _cut(batch: Any, begin: int, end: int) -> Any:
    return tuple(_cut(part, begin, end) for part in batch) if isinstance(batch, tuple) else batch[begin:end]
