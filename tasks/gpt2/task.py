"""GPT-2 on OpenWebText (paper scale), or on Shakespeare's works (mini scale): builds the workload."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.engine.errors import UserError
from tasks.engine.halves import SUFFIXES
from tasks.engine.workload import Metric, Work, Workload
from tasks.gpt2.data import Batch, Blocks, batches, in_order
from tasks.gpt2.model import build as build_model
from tasks.gpt2.sampling import sampler
from tasks.gpt2.scores import next_token_scores
from tasks.gpt2.shards import open_split, verify


def build(cfg: Any, device: torch.device) -> Workload:
    """The workload of `cfg.task`; raises UserError if the data set has not been prepared in `cfg.data_dir`."""
    task, root = cfg.task, Path(cfg.data_dir)
    train, validation = (
        Blocks(open_split(root, task.data.name, split), task.model.context) for split in ("train", "validation")
    )
    try:
        model = build_model(task.model, task.loss_chunk)
    except (TypeError, ValueError) as error:
        raise UserError(f"task.model: {error}") from error

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return model(*batch)

    return Workload(
        model=model,
        batch_at=batches(train, task.batch_size, cfg.seed, device),
        loss=loss,
        evaluate=evaluation(validation, task, device),
        metric=Metric("perplexity", "1", "lower"),
        blocks=list(model.blocks),
        work=Work("token", task.batch_size * task.model.context, model.shape.flops_per_token()),
        sample=sampler(root, task, device) if task.sample_tokens else None,
        data=verify(root, task.data.name),
    )


def evaluation(validation: Blocks, task: Any, device: torch.device) -> Callable[[nn.Module], dict[str, float]]:
    """Mean loss of the next token in nats over validation blocks, its exponential, and how often the likeliest token is right.

    The exponential also over the 1st, 3rd, ... batch of blocks, and over the others: see tasks/engine/halves.py.
    """

    def evaluate(model: nn.Module) -> dict[str, float]:
        scores = next_token_scores(
            model, model, in_order(validation, task.eval_batch_size, task.eval_blocks, device), device
        )
        found = {
            "validation_loss": scores.loss,
            "perplexity": perplexity(scores.loss),
            "next_token_accuracy": scores.accuracy,
        }
        return found | {
            f"perplexity{suffix}": perplexity(loss) for suffix, loss in zip(SUFFIXES, scores.halves, strict=False)
        }

    return evaluate


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # a diverged run's loss would overflow
