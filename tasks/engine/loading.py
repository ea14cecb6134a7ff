"""torch's DataLoader with worker processes, without draws from the global generators.

No worker outlives its run.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tasks.engine.errors import UserError


def loader(examples: Dataset, workers: int, device: torch.device, **options: Any) -> Iterator[Any]:
    """Yield what torch's DataLoader yields, with workers that end with their process.

    It makes no draw from the global generators. A worker's UserError is raised with its own
    message, without the worker's traceback that torch puts before it.
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
    """End the worker when its parent ends.

    A worker inherits all open files of its parent, among them the lock of the run's folder. A
    restart must not find that lock held by an orphan.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
