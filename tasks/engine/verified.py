"""Check by SHA-256 that data files are unchanged since they were prepared.

A file is read again only if its size or modification time differs from its last check. Past checks
are kept in `.verified.json` beside the files, or only in memory if that can't be written.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.engine.errors import UserError
from tasks.engine.files import write_bytes_atomically

CHECKED, KNOWN = ".verified.json", "checksums.json"
Check = list[int | str]  # size, modification time in ns, SHA-256
_checked: dict[Path, Check] = {}  # by this process


def verify(folder: Path, files: Mapping[str, str], fix: str) -> str:
    """Compare files of `folder` with their SHA-256 and return a digest over all of them.

    Args:
        folder: the folder of the files.
        files: the SHA-256 of each file by its path in the folder.
        fix: what the user should do about a damaged file.

    Raises:
        UserError: a file is missing, can't be read or has other content.
    """
    found = digests(folder, files, fix)
    if suspects := [name for name, digest in files.items() if found[name] != digest]:
        # The kept result of the last check may itself be damaged.
        found |= digests(folder, suspects, fix, afresh=True)
    damaged = sorted(name for name, digest in files.items() if found[name] != digest)
    if damaged:
        raise UserError(
            f"{folder / damaged[0]} is damaged{_more(damaged)}: its SHA-256 is not the recorded one; delete it, then {fix}"
        )
    return overall(files)


def digests(folder: Path, names: Iterable[str], fix: str, afresh: bool = False) -> dict[str, str]:
    """Return the SHA-256 of each file. With `afresh`, also read files that have not changed since their last check."""
    kept = {name: check for name, check in _read(folder / CHECKED).items() if _is_check(check)}
    now: dict[str, Check] = {}
    for name in names:
        path = folder / name
        try:
            about = path.stat()
            state = [about.st_size, about.st_mtime_ns]
            check = _checked.get(path) or kept.get(name) or []
            if afresh or check[:2] != state:
                with open(path, "rb") as file:
                    check = [*state, hashlib.file_digest(file, "sha256").hexdigest()]
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {fix}") from error
        now[name] = _checked[path] = check
    if any(kept.get(name) != check for name, check in now.items()):
        with contextlib.suppress(OSError):  # another user's data, or a read-only disk
            write_bytes_atomically(folder / CHECKED, json.dumps(kept | now).encode())
    return {name: str(check[2]) for name, check in now.items()}


def _is_check(value: object) -> bool:
    return isinstance(value, list) and [type(one) for one in value] == [int, int, str]


def remember(folder: Path, names: Iterable[str]) -> None:
    """Record the SHA-256 of files that come without one in checksums.json, for `verify_remembered`."""
    found = digests(folder, sorted(names), "check its permissions")
    write_bytes_atomically(folder / KNOWN, json.dumps(found, indent=1).encode() + b"\n")


def verify_remembered(folder: Path, names: Iterable[str] | None, fix: str) -> str | None:
    """Compare files (None: all that are recorded) with checksums.json.

    Return a digest over them, or None if nothing was recorded.
    """
    if not (folder / KNOWN).exists():
        return None
    known = _read(folder / KNOWN)
    if not known:
        raise UserError(f"{folder / KNOWN} is damaged; delete it, then prepare the data again")
    names = list(known if names is None else names)
    if missing := sorted(set(names) - set(known)):
        raise UserError(f"{folder / missing[0]} is not recorded in {KNOWN}{_more(missing)}; {fix}")
    return verify(folder, {name: str(known[name]) for name in names}, fix)


def overall(files: Mapping[str, str]) -> str:
    """Return one digest of 16 hexadecimal digits over many."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _read(path: Path) -> dict:
    """Return the content of a JSON file, or {} if it is missing or unreadable."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
