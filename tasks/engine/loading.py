"""torch's DataLoader with worker processes, without draws from the global generators.

No worker outlives its run.
"""

import errno
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tasks.engine.errors import UserError, one_line

SHARED_MEMORY = re.compile(r"shared memory|unable to (open|write to|allocate|resize|map)|killed by signal: Bus error")
KILLED = re.compile(r"killed by signal: Killed|exited unexpectedly")


def loader(examples: Dataset, workers: int, device: torch.device, **options: Any) -> Iterator[Any]:
    """Yield what torch's DataLoader yields, with workers that end with their process.

    It makes no draw from the global generators. A worker's UserError is raised with its own
    message, without the worker's traceback that torch puts before it.

    Raises:
        UserError: /dev/shm or the number of open files is too small for the workers.
        MemoryError: a worker was killed.
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
    except (OSError, RuntimeError) as error:
        if workers:
            _check_for_limits(error, workers)
        raise


def _check_for_limits(error: Exception, workers: int) -> None:
    """Raise one line if worker processes met a limit of the machine. torch has no classes for these errors."""
    said = f"{error} {error.__cause__ or ''}"
    lines = said.strip().splitlines()
    if KILLED.search(said):
        raise MemoryError(f"one of loader_workers={workers} was killed: {one_line(error)}") from error
    if "Too many open files" in said or "ancdata" in said:
        raise UserError(
            f"loader_workers={workers} need more open files than the limit allows ({lines[-1]}); "
            "raise it (ulimit -n 65536), or set loader_workers=0"
        ) from error
    if SHARED_MEMORY.search(said) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOSYS)):
        raise UserError(
            f"loader_workers={workers} need more shared memory than /dev/shm has ({lines[-1]}); enlarge it "
            "(docker run --shm-size=16g), or set loader_workers=0"
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
