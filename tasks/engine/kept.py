"""Small models that a task trains once, before its runs.

They are kept in the data folder under the hash of their recipe.
"""

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
    """Return the weights in the file `path`, on the CPU, and train them first if necessary.

    One process trains while others wait for it, and the file keeps the recipe too. A whole file is
    read without a lock, since the folder may be read-only. A damaged file is made again.

    Raises:
        UserError: the disk is full.
    """
    if path.exists() and (content := checkpoint.read(path)) is not None:
        return content["model"]
    with disk_full_is_said(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, even if killed
            content = checkpoint.read(path) if path.exists() else None
            if content is None:
                # left by a process that was killed while it wrote
                for left_over in path.parent.glob(f".{path.name}.*.tmp"):
                    left_over.unlink()
                content = {"recipe": recipe, "model": train()}
                write_atomically(path, lambda file: torch.save(content, file))
    return content["model"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread, so sums have the same bits in every process of a machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
