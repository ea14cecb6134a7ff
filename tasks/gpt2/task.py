"""Build the workload: GPT-2 on OpenWebText (paper scale) or on Shakespeare's works (mini scale)."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.data.text.blocks import Batch, Blocks, batches, in_order
from tasks.data.text.shards import check_vocabulary, open_split, verify
from tasks.engine.config import Config
from tasks.engine.halves import SUFFIXES
from tasks.engine.workload import Metric, Work, Workload
from tasks.gpt2.config import Gpt2Task
from tasks.gpt2.model import GPT2
from tasks.gpt2.sampling import sampler
from tasks.models.next_token import next_token_scores


def build(cfg: Config[Gpt2Task], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`.

    Raises:
        UserError: `cfg.data_dir` lacks the prepared data set, or it has another vocabulary.
    """
    task, root = cfg.task, Path(cfg.data_dir)
    check_vocabulary(root, task.data.name, task.data.vocabulary, "task.data.vocabulary")
    train, validation = (
        Blocks(open_split(root, task.data.name, split), task.model.context) for split in ("train", "validation")
    )
    network = model(task)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return network(*batch)

    return Workload(
        model=network,
        batch_at=batches(train, task.batch_size, cfg.seed, device),
        loss=loss,
        evaluate=evaluation(validation, task, device),
        metric=Metric("perplexity", "", "lower"),
        blocks=list(network.blocks),
        work=Work("token", task.batch_size * task.model.context, network.shape.flops_per_token()),
        sample=sampler(root, task, device) if task.sample_tokens else None,
        data=verify(root, task.data.name),
    )


def model(task: Gpt2Task) -> GPT2:
    """Return the initialized model of a task."""
    return GPT2(task.model, task.loss_chunk)


def evaluation(validation: Blocks, task: Gpt2Task, device: torch.device) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function for the next token's mean loss in nats, perplexity and accuracy in percent.

    It uses validation blocks. Perplexity is also given for the 1st, 3rd, ... batch of blocks and
    for the others (tasks/engine/halves.py).
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
