"""What downloads of several tasks need: data sets through the package `datasets`, and connections that give up."""

import contextlib
import hashlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from tasks.engine.errors import UserError, one_line

ARCHIVES = "archives"
# Forms of a local copy: the loader of `datasets`, and its files at any depth. The archives are OpenWebText's own.
FORMS = {
    "parquet": ("*.parquet",),
    "arrow": ("*.arrow",),
    "json": ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst"),
    ARCHIVES: ("urlsf_subset*.tar",),
}


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
    """Return where fake data has its copy of a repository of the Hugging Face hub (tasks/engine/fake.py)."""
    return root / "hub" / repository


def from_hub(name: str, repository: str, part: str) -> Any:
    """Return the training split of a data set on the Hugging Face hub, downloaded into its cache if missing.

    `datasets` 4 and later run no loading script. The hub's own parquet copy is then loaded instead.

    Args:
        name: the data set's name in messages.
        repository: on the hub.
        part: its configuration.

    Raises:
        UserError: the package is missing or the data set can't be downloaded.
    """
    try:
        return load_table(name, repository, part)
    except UserError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    copy = f"hf://datasets/{repository}@~parquet/{part}/train/*.parquet"
    return load_table(name, "parquet", data_files=copy)


def from_folder(name: str, folder: Path, unpacked: Callable[..., Iterator[Any]] | None = None) -> Any:
    """Return the rows of a local copy, in the order of its files: parquet, arrow, jsonl, or from `save_to_disk`.

    `unpacked(files)` yields the rows of the owners' archives, if they may be given too.

    Raises:
        UserError: the package is missing, or the folder is missing, has none of these forms or is damaged.
    """
    datasets = import_datasets(name)
    if any((folder / file).exists() for file in ("state.json", "dataset_dict.json")):
        with _in_one_line(name):
            saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, dict) and "train" not in saved:
            raise UserError(f"{name}: source={folder} has the splits {', '.join(saved)}, and no train")
        return saved["train"] if isinstance(saved, dict) else saved
    form, files = _files(name, folder)
    if form == ARCHIVES and unpacked is not None:
        with _in_one_line(name):
            return datasets.Dataset.from_generator(unpacked, gen_kwargs={"files": [str(path) for path in files]})
    return load_table(name, form, data_files=[str(path) for path in files])


def fingerprint(name: str, folder: Path) -> str:
    """Return what tells a local copy from another one, wherever it lies: its files' names, lengths and beginnings."""
    found = hashlib.sha256()
    for path in _files(name, folder)[1]:
        found.update(repr((str(path.relative_to(folder)), path.stat().st_size)).encode())
        with open(path, "rb") as file:
            found.update(file.read(1 << 16))
    return found.hexdigest()[:16]


def _files(name: str, folder: Path) -> tuple[str, list[Path]]:
    for form, patterns in FORMS.items():
        if files := sorted(path for pattern in patterns for path in folder.rglob(pattern)):
            return form, files
    what = "no folder" if not folder.is_dir() else "a folder without files *.parquet, *.arrow or *.jsonl"
    raise UserError(f"{name}: source={folder} is {what}; name the folder of a local copy")


def load_table(name: str, *arguments: str, **options: Any) -> Any:
    """Return the training split that `datasets.load_dataset` makes of these arguments. Raise UserError if it fails."""
    datasets = import_datasets(name)
    # They report each retry. The final error is reported below.
    for library in ("huggingface_hub", "datasets"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with _in_one_line(name):
        return datasets.load_dataset(*arguments, split="train", **options)


@contextlib.contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    # Errors of `datasets` and the libraries below it have no class in common.
    except Exception as error:
        reason = one_line(error.__cause__ or error) or type(error).__name__  # type: ignore[arg-type]
        raise UserError(f"{name} cannot be loaded ({reason}); fix this, then run the same command again") from error


def rows_until_the_end_of_each(files: Sequence[Path]) -> list[int]:
    """Return how many rows the parquet files have up to and with each of them."""
    from pyarrow.parquet import read_metadata

    return list(accumulate(read_metadata(file).num_rows for file in files))
