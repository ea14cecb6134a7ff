"""What downloads of several tasks need: data sets through the package `datasets`, and connections that give up."""

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.engine.errors import UserError


@contextlib.contextmanager
def giving_up_after(seconds: float = 30) -> Iterator[None]:
    """Let connections in the block fail after this time without data.

    A network that drops packets would otherwise mean minutes of silence.
    """
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(None)


def import_datasets(user: str) -> Any:
    """Return the package `datasets`, or raise UserError if it is not installed. `user` is what needs it."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{user} needs the package datasets; install it with: pip install '.[language]'") from error
    return datasets


def hub_copy(root: Path, repository: str) -> Path:
    """Return where a local copy of a repository of the Hugging Face hub lies in the data folder, if there is one."""
    return root / "hub" / repository


def from_hub(root: Path, name: str, repository: str, *configuration: str) -> Any:
    """Return the training split of a data set on the Hugging Face hub.

    It is read from a copy of the repository in the data folder `root` (`hub_copy`), or downloaded
    into the cache of `datasets` if missing.

    Args:
        name: the data set's name in messages.

    Raises:
        UserError: the package is missing or the data set can't be downloaded.
    """
    datasets = import_datasets(name)
    # It reports each retry. The final error is reported below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    copy = hub_copy(root, repository)
    place, cache = (str(copy), {"cache_dir": str(root / "hub" / "cache")}) if copy.is_dir() else (repository, {})
    try:
        return datasets.load_dataset(place, *configuration, split="train", **cache)
    # Errors of `datasets` and the libraries below it have no class in common.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{name} cannot be loaded ({reason}); fix this, then run the same command again") from error
