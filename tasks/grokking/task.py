"""Build the workload of modular addition with a one-layer decoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.engine.batching import epoch_order
from tasks.engine.config import Config
from tasks.engine.workload import Metric, Workload
from tasks.grokking.config import GrokkingTask
from tasks.grokking.data import Pairs, split
from tasks.grokking.model import Decoder


def build(cfg: Config[GrokkingTask], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`. Its data is computed, not read."""
    task = cfg.task
    train, validation = (
        (tokens.to(device), sums.to(device))
        for tokens, sums in split(task.data.modulus, task.data.train_fraction, task.data.split_seed)
    )
    indices = epoch_order(len(train[1]), task.batch_size, cfg.seed)

    def batch_at(step: int) -> Pairs:
        chosen = indices(step).to(device)
        return train[0][chosen], train[1][chosen]

    def loss(network: nn.Module, batch: Pairs) -> Tensor:
        tokens, sums = batch
        return F.cross_entropy(network(tokens), sums)

    return Workload(
        model=model(task),
        batch_at=batch_at,
        loss=loss,
        evaluate=lambda network: {
            "validation_accuracy": _accuracy(network, validation),
            "train_accuracy": _accuracy(network, train),
        },
        metric=Metric("validation_accuracy", "%", "higher"),
    )


def model(task: GrokkingTask) -> nn.Module:
    """Return the initialized model of a task."""
    return Decoder(task.data.modulus, task.model.width, task.model.heads, task.model.mlp_factor)


@torch.no_grad()
def _accuracy(model: nn.Module, pairs: Pairs) -> float:
    model.eval()
    tokens, sums = pairs
    return 100 * (model(tokens).argmax(1) == sums).float().mean().item()
