"""Small models that a task trains itself, once, before its runs: kept in the data folder under a name that is the hash of their recipe."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.engine import checkpoint
from tasks.engine.files import disk_full_is_said, write_atomically

Weights = dict[str, Tensor]


def kept(path: Path, recipe: dict[str, Any], train: Callable[[], Weights]) -> Weights:
    """Return the weights in the file `path`, on the CPU: kept by an earlier call, or made by `train` now and kept, with the recipe.

    Of several processes one trains, and the others wait for it. A whole file is read without a lock, since the folder may be
    read-only. A damaged file is made anew. Raises UserError if the disk is full.
    """
    if path.exists() and (content := checkpoint.read(path)) is not None:
        return content["model"]
    with disk_full_is_said(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the process ends, however it ends
            content = checkpoint.read(path) if path.exists() else None
            if content is None:
                for left_over in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
                    left_over.unlink()
                content = {"recipe": recipe, "model": train()}
                write_atomically(path, lambda file: torch.save(content, file))
    return content["model"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch works on one thread of the CPU: sums have the same bits in every process of a machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
