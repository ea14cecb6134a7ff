"""All pairs (a, b, =) with their sum modulo a prime, split into training and validation."""

import torch
from torch import Tensor

from tasks.engine.seeding import generator_for

Pairs = tuple[Tensor, Tensor]


def split(modulus: int, train_fraction: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return training and validation pairs: tokens int64 [n, 3] and sums int64 [n]."""
    a, b = torch.meshgrid(torch.arange(modulus), torch.arange(modulus), indexing="ij")
    tokens = torch.stack([a.flatten(), b.flatten(), torch.full((modulus**2,), modulus)], dim=1)
    sums = (tokens[:, 0] + tokens[:, 1]) % modulus
    order = torch.randperm(modulus**2, generator=generator_for(seed, "split"))
    size = int(train_fraction * modulus**2)
    train, validation = order[:size], order[size:]
    return (tokens[train], sums[train]), (tokens[validation], sums[validation])
