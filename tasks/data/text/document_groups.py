"""Turn a fixed range of documents (a group) into one training file, one validation file and a record.

A group depends only on its documents and the recipe, so any process makes the same bytes at any
time.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tasks.data.text.corpora import Documents
from tasks.data.text.shards import SPLITS, TOKEN, wrong_in_length
from tasks.data.text.tokenizer import FINGERPRINT, VOCABULARY_SIZE, Tokenizer
from tasks.engine.files import write_atomically, write_bytes_atomically

BATCH = 500  # documents tokenized at a time, half a million tokens of OpenWebText


@dataclass(frozen=True)
class Recipe:
    """What determines the content of the shards, together with the documents."""

    name: str
    source: str
    validation_share: float
    documents_per_group: int
    vocabulary: int = VOCABULARY_SIZE
    tokenizer_sha256: str = FINGERPRINT

    def groups(self, documents: int) -> int:
        return -(-documents // self.documents_per_group)

    def span(self, group: int, documents: int) -> tuple[int, int]:
        """Return the first document of a group and the one after its last."""
        start = group * self.documents_per_group
        return start, min(start + self.documents_per_group, documents)


def is_validation(text: str, share: float) -> bool:
    """Return whether a document is held out by its own hash, wherever it stands. Equal documents stay together."""
    head = hashlib.sha256(text.encode()).digest()[:8]
    return int.from_bytes(head, "big") / 2**64 < share


class _Shard:
    """A file being written, with its count of documents and tokens and its SHA-256."""

    def __init__(self, file: BinaryIO, end_of_text: int) -> None:
        self._file, self._end_of_text = file, end_of_text
        self._hash = hashlib.sha256()
        self._documents = self._tokens = 0

    def add(self, documents: list[list[int]]) -> None:
        tokens = np.array([token for ids in documents for token in (*ids, self._end_of_text)], TOKEN)
        content = tokens.tobytes()
        self._file.write(content)
        self._hash.update(content)
        self._documents += len(documents)
        self._tokens += len(tokens)

    def record(self, file: str) -> dict[str, Any]:
        return {"file": file, "sha256": self._hash.hexdigest(), "documents": self._documents, "tokens": self._tokens}


def write_group(
    folder: Path, group: int, documents: Documents, recipe: Recipe, tokenizer: Tokenizer, go_on: Callable[[], None]
) -> dict[str, Any]:
    """Write the shards of a group, then its record, and return the record.

    Nothing half-written remains after a failure. `go_on` is called between batches and may raise to
    stop.

    Raises:
        OSError: the disk is full.
    """
    start, stop = recipe.span(group, len(documents))
    names = {split: f"{split}-{group:05d}.bin" for split in SPLITS}
    # It is small, so the validation file need not be open beside the training file.
    held_back = io.BytesIO()
    validation = _Shard(held_back, tokenizer.end_of_text)
    records = []

    def fill(file: BinaryIO) -> None:
        train = _Shard(file, tokenizer.end_of_text)
        for first in range(start, stop, BATCH):
            go_on()
            texts = documents[first : min(first + BATCH, stop)]
            for split, ids in _tokenized(texts, recipe, tokenizer):
                (train if split == "train" else validation).add(ids)
        records.append(train.record(names["train"]))

    write_atomically(folder / names["train"], fill)
    write_bytes_atomically(folder / names["validation"], held_back.getvalue())
    records.append(validation.record(names["validation"]))
    record = {"recipe": asdict(recipe), "span": [start, stop], "shards": records}
    write_bytes_atomically(_record_path(folder, group), json_bytes(record))
    return record


def _tokenized(texts: list[str], recipe: Recipe, tokenizer: Tokenizer) -> Iterator[tuple[str, list[list[int]]]]:
    """Yield (split, the ids of its documents) for both splits."""
    documents = tokenizer.encode_batch(texts)
    held_back = [is_validation(text, recipe.validation_share) for text in texts]
    yield "train", [ids for ids, held in zip(documents, held_back, strict=True) if not held]
    yield "validation", [ids for ids, held in zip(documents, held_back, strict=True) if held]


def kept_group(folder: Path, group: int, recipe: Recipe, documents: int) -> dict[str, Any] | None:
    """Return the record of a group that was finished earlier by the same recipe, or None."""
    try:
        record = json.loads(_record_path(folder, group).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    same = record.get("recipe") == asdict(recipe) and record.get("span") == list(recipe.span(group, documents))
    return record if same and not wrong_in_length(folder, record["shards"]) else None


def json_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"


def _record_path(folder: Path, group: int) -> Path:
    return folder / f"group-{group:05d}.json"
