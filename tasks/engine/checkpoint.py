"""checkpoint.pt: everything that determines the rest of a run, in one file that is whole or absent.

The previous one is kept as checkpoint.previous.pt until the run ends, in case the disk damages the
newest.
"""

import errno
import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.engine.errors import Unusable
from tasks.engine.files import write_atomically
from tasks.engine.records import set_aside

FORMAT = 3
NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
NAMES = ("checkpoint.new.pt", NAME, PREVIOUS)


def save(folder: Path, run_id: str, content: dict[str, Any]) -> None:
    """Write the newest checkpoint. The folder has at least one whole checkpoint at every moment."""
    content = content | {"format": FORMAT, "run_id": run_id}
    fresh = folder / "checkpoint.new.pt"
    write_atomically(fresh, lambda file: torch.save(content, file))
    if (folder / NAME).exists():
        os.replace(folder / NAME, folder / PREVIOUS)
    os.replace(fresh, folder / NAME)


def load(
    folder: Path, run_id: str, logs_hold: Callable[[dict[str, Any]], bool], warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the newest whole checkpoint on the CPU, with its "path", or None.

    Its logs must still hold what they held when it was written. Other checkpoints are set aside,
    with one line to `warn`.

    Raises:
        Unusable: a checkpoint belongs to another run, has an unknown format, or can't be opened or
            read.
    """
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        content = check(path, run_id)
        if content is None:
            kept = set_aside(path)
            warn(f"{path} is damaged (kept as {kept.name}); resuming from the checkpoint before it, or from the start")
            continue
        if not logs_hold(content):
            kept = set_aside(path)
            warn(
                f"the logs in {folder} are damaged; resuming from where they are intact (kept {path.name} as {kept.name})"
            )
            continue
        return content | {"path": str(path)}
    return None


def check(path: Path, run_id: str) -> dict[str, Any] | None:
    """Return the content of a run's checkpoint, or None if it is damaged.

    Raises:
        Unusable: it belongs to another run, has an unknown format, or can't be opened or read.
    """
    content = read(path)
    if content is None:
        return None
    odd = None
    if content.get("run_id") != run_id:
        odd = f"belongs to run {content.get('run_id')!r}, not to {run_id!r}"
    elif content.get("format") != FORMAT:
        odd = f"has format {content.get('format')!r}, but this version reads format {FORMAT}"
    if odd:
        raise Unusable(f"{path} {odd}; set it aside with: python scripts/retry.py {path.parent}")
    return content


def read(path: Path) -> dict[str, Any] | None:
    """Return the content of one checkpoint, or None if it is damaged.

    torch's archives carry a CRC-32 of every member.

    Raises:
        Unusable: it can't be opened or read. This is no damage, and may pass.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        # A damaged table of contents points to before the file.
        if error.errno == errno.EINVAL:
            return None
        raise Unusable(
            f"{path} cannot be read: {error.strerror or error}; fix this, then run the same command again"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError):
        return None
    return content if isinstance(content, dict) else {}


def finish(folder: Path) -> None:
    """Delete the second-newest checkpoint of a run that has ended."""
    (folder / PREVIOUS).unlink(missing_ok=True)


def digest(*states: Any) -> str:
    """Return the SHA-256 over every tensor and value of nested states.

    Digests are equal if and only if the states are equal to the last bit.
    """
    total = hashlib.sha256()
    for path, value in _leaves(states, ""):
        total.update(path.encode())
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            total.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(value).encode())
    return total.hexdigest()


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}/{index}")
    else:
        yield path, value
