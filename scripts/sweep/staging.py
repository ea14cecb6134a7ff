"""Copy data sets to a node's own disk, once for all processes of the node."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.engine.errors import UserError
from tasks.engine.files import one_at_a_time
from tasks.engine.terminal import warn
from tasks.engine.verified import CHECKED


def staged(data_dir: Path, scratch: str, names: Sequence[str]) -> Path:
    """Return a folder in `scratch` with copies of these folders of `data_dir`, and links to the rest of it.
    The record of past checks is not copied, so a task reads and checks the copies as it checks new data.
    Without enough space, return `data_dir` after a warning.

    Args:
        data_dir: the folder that all nodes share.
        scratch: a folder of the node, with variables of the job such as $TMPDIR.
        names: folders in data_dir.

    Raises:
        UserError: `scratch` has a variable that the job doesn't have, or a folder is missing.
    """
    there = os.path.expandvars(scratch)
    if "$" in there:
        raise UserError(f"launcher.scratch={scratch} names a variable that the job does not have")
    if missing := [name for name in names if "/" in name or not (data_dir / name).is_dir()]:
        raise UserError(f"launcher.stage: {missing[0]} is no folder in {data_dir}")
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    folder = Path(there) / f"cpr-data-{os.getuid()}-{digest}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; set launcher.scratch= to a folder of your own")
    with one_at_a_time(folder / ".lock"):  # the other processes of the node wait here
        changed = [pair for name in names for pair in _changed(data_dir / name, folder / name)]
        needed, free = sum(source.stat().st_size for source, _ in changed), shutil.disk_usage(folder).free
        if needed > free:
            warn(f"launcher.scratch={scratch} has {free / 1e9:.1f} GB free, and the data needs {needed / 1e9:.1f} GB")
            return data_dir
        for source, target in changed:
            _copy(source, target)
        for path in data_dir.iterdir():
            if path.name not in names and not os.path.lexists(folder / path.name):
                (folder / path.name).symlink_to(path)
    return folder


def _changed(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files that the copy lacks, or has with another size or modification time."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_file() and path.name != CHECKED and (not copy.exists() or _state(copy) != _state(path)):
            yield path, copy


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _copy(source: Path, target: Path) -> None:
    """Copy a file under another name, and rename it when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.tmp")
    shutil.copy2(source, partial)
    partial.replace(target)
