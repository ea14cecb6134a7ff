"""Which examples are in the batch of a step: a pure function of (seed, step)."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from tasks.engine.seeding import generator_for


def epoch_order(count: int, batch_size: int, seed: int) -> Callable[[int], Tensor]:
    """`indices(step)`: every epoch is a permutation of `count` examples; its last, partial batch is kept."""
    steps_per_epoch = -(-count // batch_size)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        return torch.randperm(count, generator=generator_for(seed, "epoch", epoch))

    def indices(step: int) -> Tensor:
        epoch, number = divmod(step, steps_per_epoch)
        return order(epoch)[number * batch_size : (number + 1) * batch_size]

    return indices
