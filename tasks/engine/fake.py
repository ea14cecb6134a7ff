"""Fake data: a data folder with a file FAKE, which says what was made. Only scale=rehearsal trains on it.

FAKE replaces the owners' counts and checksums, so the loaders check fake files as strictly as real ones.
A copy of it lies in every folder of a data set, so a moved folder is still recognized.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.engine.errors import UserError
from tasks.engine.files import write_bytes_atomically

NAME = "FAKE"
SCALE = "rehearsal"
NOTE = "Fake data, drawn at random to rehearse the paper's scale. No result may come from it."


def marker(root: Path) -> Path | None:
    """Return the file FAKE of a data folder, or of a data set's folder in it. None for real data."""
    return next((path for path in (root / NAME, *sorted(root.glob(f"*/{NAME}"))) if path.exists()), None)


def facts(root: Path, name: str) -> dict[str, Any] | None:
    """Return what replaces the owner's counts and checksums of a data set. None for real data."""
    return _read(root).get(name)


def once(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Let a function make a fake data set only if the data folder doesn't have it."""

    def wrap(make: Callable[[Path], None]) -> Callable[[Path], None]:
        @functools.wraps(make)
        def made(root: Path) -> None:
            if facts(root, name) is None:
                make(root)

        return made

    return wrap


def begin(root: Path, folder: str | Path = "") -> Path:
    """Mark a data folder as fake, make the folder of a data set in it, and return that.

    Raises:
        UserError: the data folder has files and is not marked, so fake files would join real ones.
    """
    if root.exists() and any(root.iterdir()) and not (root / NAME).exists():
        raise UserError(f"{root} holds files that are not fake data; set data_dir= to a new folder")
    (root / folder).mkdir(parents=True, exist_ok=True)
    _write(root, _read(root) | {"note": NOTE})
    return root / folder


def end(root: Path, name: str, facts: dict[str, Any], *folders: Path) -> None:
    """Record a fake data set that is complete, also in its folders and in what they lie in."""
    content = _read(root) | {name: facts}
    above = [root / folder.relative_to(root).parts[0] for folder in folders]
    for folder in dict.fromkeys((root, *above, *folders)):
        _write(folder, content)


def _write(folder: Path, content: dict[str, Any]) -> None:
    write_bytes_atomically(folder / NAME, json.dumps(content, indent=1).encode() + b"\n")


def check_run(scale: str, root: Path) -> None:
    """Raise UserError if a run of `scale` may not train on the data folder `root`."""
    found = marker(root)
    if found is not None and scale != SCALE:
        raise UserError(f"data_dir={root} holds fake data ({found}); set data_dir= to real data, or scale={SCALE}")
    if scale == SCALE and not (root / NAME).exists():
        raise UserError(
            f"scale={SCALE} trains on fake data alone, and {root} has no file {NAME}; "
            f"make some with: python scripts/fake_data.py TASK data_dir=FOLDER"
        )


def _read(root: Path) -> dict[str, Any]:
    path = root / NAME
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged; delete {root}, then make the fake data again") from error
