"""How a run that is out of memory is recognized, and how one needs less under the same protocol."""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.resources import pass_sizes


def checkpoint_activations(cfg: Config, blocks: list[nn.Module] | None) -> None:
    """Make each block keep its input alone, and compute the rest again in the backward pass.

    Raises:
        UserError: the model has no blocks.
    """
    if not blocks:
        raise UserError(
            f"gradient_checkpointing=true needs a model of blocks, and that of task={cfg.task.name} has none; set it to false"
        )
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def is_out_of_memory(error: Exception) -> bool:
    """Return whether torch or Python could not have the memory that it asked for."""
    said = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)


def less_memory(cfg: Config, pieces: bool = True, built: bool = True) -> str:
    """Return how the run needs less memory under the same protocol.

    Args:
        cfg: of the run.
        pieces: whether its model takes a part of the batch, so not if it has batch normalization.
        built: whether the model was built. If not, its activations are not what is too large.
    """
    world, batch_size = cfg.nodes * cfg.gpus, cfg.task.batch_size
    whole, *parts = pass_sizes(batch_size, world)
    smaller = next((size for size in parts if size <= min(cfg.micro_batch or whole, whole) // 2), None)
    ways = [f"micro_batch={smaller}"] if smaller and pieces and built else []
    # torch can't synchronize batch normalization over CPUs.
    if 2 * world <= batch_size and not cfg.task.one_process and (pieces or cfg.device != "cpu"):
        ways.append(f"gpus={2 * cfg.gpus}" if built else f"parallel=fsdp gpus={2 * cfg.gpus}")
    found = (
        f"set {' or '.join(ways)}, which keep the run's id and protocol, or free some memory" if ways else "free some"
    )
    return f"{found}; then run the same command again"
