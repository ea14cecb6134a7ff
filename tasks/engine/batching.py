"""Choose the examples of a step's batch from (seed, step) alone, and divide them among processes."""

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
    """Return `indices(step)`, which draws every epoch as a permutation of `count` examples.

    Args:
        count: examples in the training set.
        batch_size: examples in a batch. The last batch of an epoch may have fewer.
        seed: the run's seed.
        drop_last: drop an epoch's last, partial batch.
        repeats: each example occurs this many times in a row (repeated augmentation). The length of
            an epoch stays the same, so an epoch has only a part of the examples.
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


def micro_batches(batch: Any, rank: int = 0, world: int = 1, micro_batch: int | None = None) -> list[tuple[Any, float]]:
    """Return process `rank`'s micro-batches of a global batch, each with its share of the batch.

    One has at most `micro_batch` examples. A batch is a tuple of batches, or something with a
    length and slices. For a tensor, dimension 0 counts the examples. Every process gets the same
    number of micro-batches. A process without examples gets one that belongs to others, with share 0.
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
    """Return how many examples are in a batch."""
    return size_of(batch[0]) if isinstance(batch, tuple) else len(batch)


def _cut(batch: Any, begin: int, end: int) -> Any:
    return tuple(_cut(part, begin, end) for part in batch) if isinstance(batch, tuple) else batch[begin:end]
