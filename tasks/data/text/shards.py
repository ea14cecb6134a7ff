"""Tokens on disk: `<root>/gpt2/<name>/<split>-<number>.bin`, little-endian uint16, and a manifest.

Each document is followed by <|endoftext|>. The manifest is written last, so a data set that has it
is complete.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.engine import verified
from tasks.engine.errors import UserError

SPLITS = ("train", "validation")
TOKEN = np.dtype("<u2")


class Tokens:
    """The concatenated tokens of several memory-mapped files."""

    def __init__(self, files: list[Path]) -> None:
        # An empty file can't be memory-mapped.
        self._shards = [np.memmap(path, TOKEN, "r") for path in files if path.stat().st_size]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def largest(self) -> int:
        """Return the largest token, or 0 if there is none."""
        return max((int(shard.max()) for shard in self._shards), default=0)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return a copy of `count` tokens from `start` on, uint16 of shape (count,).

        Raises:
            IndexError: there are fewer tokens.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        result = np.empty(count, TOKEN)
        done = 0
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while done < count:
            tokens = self._shards[shard]
            first = start + done - (int(self._ends[shard]) - len(tokens))
            piece = tokens[first : first + count - done]
            result[done : done + len(piece)] = piece
            done += len(piece)
            shard += 1
        return result


def data_set_folder(root: Path, name: str) -> Path:
    return root / "gpt2" / name


def open_split(root: Path, name: str, split: str) -> Tokens:
    """Return the tokens of a split ("train" or "validation") of the data set `name` in the folder `root`.

    Raises:
        UserError: the data set is not prepared, or a file is missing or has the wrong length.
    """
    folder = data_set_folder(root, name)
    shards = manifest(root, name)["shards"][split]
    if wrong := wrong_in_length(folder, shards):
        raise UserError(
            f"{name}: {wrong[0]} in {folder} is missing or has another length than recorded; {fix(root, name)}"
        )
    return Tokens([folder / shard["file"] for shard in shards])


def check_vocabulary(root: Path, name: str, entries: int, key: str) -> None:
    """Raise UserError if the tokens are not of a vocabulary of `entries`, which the configuration's `key` has.

    Shards whose manifest names no vocabulary need only have tokens below `entries`.
    """
    known = manifest(root, name)
    if "vocabulary" in known:
        own, fits = known["vocabulary"], known["vocabulary"] == entries
    else:
        own = 1 + max(open_split(root, name, split).largest() for split in SPLITS)
        fits = own <= entries
    if not fits:
        raise UserError(
            f"{key}={entries} is not the vocabulary of {name} in {data_set_folder(root, name)}, which has {own} entries; "
            f"set {key}={own}" + f" task.model.vocabulary={own}" * (key == "task.data.vocabulary")
        )


def manifest(root: Path, name: str) -> dict[str, Any]:
    """Return what the data set holds: its recipe and totals, and what each shard is.

    A shard has its file, SHA-256, documents and tokens.

    Raises:
        UserError: the data set is not prepared.
    """
    path = data_set_folder(root, name) / "manifest.json"
    if not path.exists():
        raise UserError(f"{name} is not in {root}; {fix(root, name)}")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{name}: {path} is damaged; delete it, then {fix(root, name)}") from error


def verify(root: Path, name: str) -> str:
    """Compare the SHA-256 of every shard with the manifest's, and return a digest over all of them.

    The first time takes half a minute for OpenWebText on a disk of 600 MB/s
    (tasks/engine/verified.py).

    Raises:
        UserError: a shard is damaged.
    """
    shards = [shard for split in SPLITS for shard in manifest(root, name)["shards"][split]]
    return verified.verify(
        data_set_folder(root, name), {shard["file"]: shard["sha256"] for shard in shards}, fix(root, name)
    )


def wrong_in_length(folder: Path, shards: list[dict[str, Any]]) -> list[str]:
    """Return the files that are missing or hold another number of tokens than recorded."""

    def right(shard: dict[str, Any]) -> bool:
        path = folder / shard["file"]
        return path.exists() and path.stat().st_size == shard["tokens"] * TOKEN.itemsize

    return [shard["file"] for shard in shards if not right(shard)]


def fix(root: Path, name: str) -> str:
    return f"prepare it with: python scripts/prepare_data.py gpt2 {name} data_dir={root}"
