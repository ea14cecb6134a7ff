"""What a task provides to the engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tasks.engine.errors import UserError


@dataclass(frozen=True)
class Metric:
    """The score of a task: its key in the record, its unit, and which direction is better."""

    name: str
    unit: str
    better: str  # "higher" or "lower"

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise UserError(f"the task's metric {self.name} has better={self.better!r}; it must be 'higher' or 'lower'")


@dataclass(frozen=True)
class Work:
    """What one update processes, over all processes of a run.

    Attributes:
        unit: what is counted ("token", "image").
        per_step: how many units one update processes.
        flops: per unit, forward and backward, without recomputation that saves memory. None if not
            counted.
    """

    unit: str
    per_step: int
    flops: float | None = None


@dataclass(frozen=True)
class Workload:
    """One training problem.

    Attributes:
        model: the model to train.
        batch_at: batch_at(step) is a pure function of (seed, step), so resuming needs no replay. A
            batch is a tensor or a tuple of batches, with one example per index of dimension 0. It
            may also be something with a length whose slices are such batches.
        loss: loss(model, batch) returns a 0-dim tensor, the mean over the batch's examples. Each of
            several processes gets a part of the batch.
        evaluate: evaluate(model) returns the model's metrics, and may leave it in evaluation mode.
            Every process evaluates everything, since a sharded model needs all of them to compute.
        metric: the score of the task. None for a small model that is trained before the runs (`kept.py`).
        blocks: what FSDP gathers at a time, such as the blocks of a transformer. None for the
            model's children. Tied parameters must be in one block or in none.
        work: for the speed in progress bar, wandb and record.
        sample: sample(model) returns a text that the model writes, logged with every evaluation.
            The same model writes the same text.
        at_start: at_start(model) prepares evaluations before the first step, and again after a
            resume. It computes as evaluate does.
        at_end: at_end(model) returns further metrics of the trained model, for the last evaluation
            only.
        data: a digest of the files that the run reads. None if the data is computed or its content
            is unknown.
    """

    model: nn.Module
    batch_at: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    metric: Metric | None
    blocks: list[nn.Module] | None = None
    work: Work | None = None
    sample: Callable[[nn.Module], str] | None = None
    at_start: Callable[[nn.Module], None] | None = None
    at_end: Callable[[nn.Module], dict[str, float]] | None = None
    data: str | None = None
