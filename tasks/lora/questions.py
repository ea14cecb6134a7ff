"""Questions on disk: `<root>/lora/<name>/<split>.jsonl` with a prompt and its answer per line.

A manifest is written last.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.engine import verified
from tasks.engine.errors import UserError
from tasks.engine.files import disk_full_is_said, write_bytes_atomically
from tasks.engine.seeding import generator_for

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Question:
    """A prompt and the answer with which the model should continue. The answer begins with a space."""

    prompt: str
    answer: str


def write(root: Path, name: str, recipe: Mapping[str, Any], questions: Mapping[str, Sequence[Question]]) -> None:
    """Write the splits of a data set, then its manifest, or raise UserError if the disk is full."""
    folder = questions_folder(root, name)
    contents = {f"{split}.jsonl": _lines(questions[split]) for split in SPLITS}
    with disk_full_is_said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            write_bytes_atomically(folder / file, content)
        files = {
            file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for file, content in contents.items()
        }
        counts = {split: len(questions[split]) for split in SPLITS}
        manifest = {"recipe": dict(recipe), "questions": counts, "files": files}
        write_bytes_atomically(folder / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")


def finished(root: Path, name: str, recipe: Mapping[str, Any]) -> bool:
    """Return whether this recipe made the data set and its files are unchanged."""
    folder = questions_folder(root, name)
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        return manifest["recipe"] == dict(recipe) and all(
            hashlib.sha256((folder / file).read_bytes()).hexdigest() == known["sha256"]
            for file, known in manifest["files"].items()
        )
    except (FileNotFoundError, ValueError, KeyError):
        return False


def read(root: Path, name: str, split: str) -> list[Question]:
    """Return the questions of a split.

    Raises:
        UserError: the data set is not prepared, or the file has the wrong length.
    """
    path = questions_folder(root, name) / f"{split}.jsonl"
    known = _files(root, name)[path.name]
    content = path.read_bytes() if path.exists() else b""
    if len(content) != known["bytes"]:
        raise UserError(f"{name}: {path} is missing or has another length than recorded; {fix(root, name)}")
    return [Question(**json.loads(line)) for line in content.splitlines()]


def digest(root: Path, name: str) -> str:
    """Return a digest of all questions, after comparing the files with the manifest.

    Raises:
        UserError: a file is missing or damaged.
    """
    files = {file: known["sha256"] for file, known in _files(root, name).items()}
    return verified.verify(questions_folder(root, name), files, fix(root, name))


def fingerprint(root: Path, name: str) -> str:
    """Return the recorded SHA-256 of the training questions, or raise UserError if they are not prepared."""
    return _files(root, name)["train.jsonl"]["sha256"]


def subset(questions: list[Question], size: int | None, seed: int) -> list[Question]:
    """Return `size` of the questions, the same ones for the same seed, or all of them for None.

    Raises:
        UserError: there are fewer.
    """
    if size is None:
        return questions
    if size > len(questions):
        raise UserError(f"task.data.train_size={size} questions are asked for, but there are {len(questions)}")
    order = torch.randperm(len(questions), generator=generator_for(seed, "subset"))
    return [questions[index] for index in order[:size].tolist()]


def questions_folder(root: Path, name: str) -> Path:
    return root / "lora" / name


def fix(root: Path, name: str) -> str:
    return f"prepare it with: python scripts/prepare_data.py lora {name} data_dir={root}"


def _files(root: Path, name: str) -> dict[str, Any]:
    folder = questions_folder(root, name)
    try:
        return json.loads((folder / "manifest.json").read_bytes())["files"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise UserError(f"{name} is not in {folder}; {fix(root, name)}") from error


def _lines(questions: Sequence[Question]) -> bytes:
    return b"".join(json.dumps(asdict(question)).encode() + b"\n" for question in questions)
