"""What a task gives the engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Metric:
    """The number a task is judged by: its key in the record, its unit, and which direction is better."""

    name: str
    unit: str
    better: str  # "higher" or "lower"


@dataclass(frozen=True)
class Work:
    """What one update processes, over all processes of a run: `per_step` pieces of a `unit` ("token", "image").

    flops: of forward and backward for each, without what is computed twice to save memory; None where nobody has counted.
    """

    unit: str
    per_step: int
    flops: float | None = None


@dataclass(frozen=True)
class Workload:
    """One training problem.

    batch_at(step) is a pure function of (seed, step), so that resuming needs no replay; a batch is a tensor or a tuple of batches,
    with one example per index of dimension 0, or something with a length whose slices are such batches. loss(model, batch) is a 0-dim
    tensor, the mean over the batch's examples, of which several processes are given a part each. evaluate(model) returns the metrics of
    the model, which it may leave in evaluation mode; every process evaluates all of it, since a sharded model computes with all of them
    only.

    blocks: what FSDP gathers at a time, such as the blocks of a transformer; None for the model's children. Tied parameters must
    be in one block or in none. work: for the speed in progress bar, wandb and record. sample(model): a text that the model writes,
    logged with every evaluation; the same model writes the same text. at_end(model): further metrics of the trained model, which the
    last evaluation alone has. data: a digest of the files that the run reads; None for data that is computed, or whose content is
    not known.
    """

    model: nn.Module
    batch_at: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    metric: Metric
    blocks: list[nn.Module] | None = None
    work: Work | None = None
    sample: Callable[[nn.Module], str] | None = None
    at_end: Callable[[nn.Module], dict[str, float]] | None = None
    data: str | None = None
