"""torch's loader for processes that read ahead: no draw from the global generators, and no worker outlives its run."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tasks.engine.errors import UserError


def loader(examples: Dataset, workers: int, device: torch.device, **options: Any) -> Iterator[Any]:
    """What torch's loader gives, with no draw from the global generators and workers that end with their process.

    Raises a UserError of a worker in its own words, where torch puts the worker's traceback before them.
    """
    batches = DataLoader(
        examples,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
        worker_init_fn=_follow_parent if workers else None,
        **options,
    )
    try:
        yield from batches
    except UserError as error:
        raise UserError(
            str(error).strip().rpartition(f"\n{UserError.__module__}.{UserError.__name__}: ")[-1]
        ) from error


def _follow_parent(worker: int) -> None:
    """A worker has the lock of the run's folder, as everything that its parent has open: a restart must not find it held by an orphan."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
