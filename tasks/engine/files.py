"""Files that are whole or not there: atomic writes, append-only logs that can be cut back, and one process per folder."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tasks.engine.errors import DiskFull, Held, Unusable, UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Give errors of the operating system the name of the file that is written, as those of an open file have none.

    torch.save hides them in a RuntimeError: it becomes an OSError again.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
    except RuntimeError as error:
        cause = next((one for one in (error.__cause__, error.__context__) if isinstance(one, OSError)), None)
        if cause is None and "inline_container" not in str(error):
            raise
        code = cause.errno if cause is not None and cause.errno else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, syncs it and renames it onto `path`; on failure nothing stays behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with errors_name(path):
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """`write_atomically` for content that is at hand."""
    write_atomically(path, lambda file: file.write(content))


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    """Return the value with null for NaN and infinities, which JSON doesn't have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Log:
    """A file of JSON lines. A checkpoint remembers `mark()`; resuming calls `cut(mark)`, so that no line stands twice.

    Lines hold no clock times: an interrupted run's file is byte-identical to an undisturbed one's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        self._hash = hashlib.sha256()

    def append(self, row: dict[str, Any]) -> None:
        """Writes one line through to the operating system."""
        line = json.dumps(_finite(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with errors_name(self.path):
            self._file.write(line)
            self._file.flush()
        self._hash.update(line)

    def mark(self) -> tuple[int, str]:
        """The file's length and the SHA-256 of its content, after syncing it to the disk."""
        with errors_name(self.path):
            os.fsync(self._file.fileno())
            return self._file.tell(), self._hash.hexdigest()

    def holds(self, mark: tuple[int, str]) -> bool:
        """Whether the file begins with what was in it when `mark` was taken."""
        with open(self.path, "rb") as file:
            return hashlib.sha256(file.read(mark[0])).hexdigest() == mark[1]

    def cut(self, mark: tuple[int, str] | None) -> None:
        """Drops everything behind `mark`, which the file holds; everything for None."""
        length = 0 if mark is None else mark[0]
        with errors_name(self.path):
            self._file.truncate(length)
            self._file.seek(length)
        self._hash = hashlib.sha256(self.path.read_bytes())

    def check(self) -> None:
        """Raise Unusable if the file holds anything but what this process has read and written, such as another one's lines."""
        content = self.path.read_bytes()
        steps = [json.loads(line).get("step", 0) for line in content.splitlines()]
        if hashlib.sha256(content).digest() != self._hash.digest() or steps != sorted(steps):
            raise Unusable(
                f"{self.path} holds lines of another process; delete {self.path.parent} and run the same command again"
            )

    def close(self) -> None:
        self._file.close()


class Lock:
    """The right of this process alone to write in a folder."""

    def __init__(self, folder: Path, file: TextIO) -> None:
        self.path, self._file = folder / ".lock", file
        self._word = f"process {os.getpid()} on {socket.gethostname()} ({secrets.token_hex(4)})"
        with errors_name(self.path):
            file.truncate(0)
            file.write(self._word)
            file.flush()

    def check(self) -> None:
        """Raise Unusable if the lock is lost: deleted, renamed, or taken by another process where locks don't work."""
        try:
            mine = (
                os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
                and self.path.read_text() == self._word
            )
        except FileNotFoundError:
            mine = False
        if not mine:
            raise Unusable(
                f"{self.path} is no longer this process's lock: it was deleted, or another process took over the run. Nothing more is "
                "written. Run the same command again when no other process trains the run"
            )


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[Lock]:
    """Hold the folder for this process. The operating system lets go of it whenever the process ends, however it ends.

    Raises Held if another process is at work in it, Unusable if .lock is no file.
    """
    must_be_files(folder, [".lock"])
    with open(folder / ".lock", "a+") as file:
        if not _locked(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Held(f"run {folder.name} is being trained by {holder}; wait for it, or stop it first") from None
        lock = Lock(folder, file)
        for left_over in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            if not left_over.is_dir():
                left_over.unlink()
        yield lock


def must_be_files(folder: Path, names: Iterable[str]) -> None:
    """Raise Unusable for a name in `folder` that is there and is no regular file: a folder, a broken link, or a pipe, which would hang."""
    for name in names:
        if os.path.lexists(folder / name) and not (folder / name).is_file():
            raise Unusable(
                f"{folder / name} is not a regular file; set it aside with: python scripts/retry.py {folder}"
            )


def is_held(folder: Path) -> bool:
    """Whether a process is at work in the folder, as far as its file system tells this machine."""
    if not (folder / ".lock").is_file():  # a pipe would hang
        return False
    with contextlib.suppress(OSError), open(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _locked(lock: TextIO) -> bool:
    """Tries for half a second: a look at the folder's state (scripts/sweep/states.py) holds the lock too, for an instant."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time into the block, while others wait. `path` is the lock's file.

    The lock is released when the process ends, even if killed.
    """
    with open(path, "a") as lock:
        _lock(lock, fcntl.LOCK_EX)
        yield


def _lock(file: TextIO, kind: int) -> None:
    """Lock an open file. Raise UserError if its file system has no locks."""
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}), so two processes could write there at once; "
            "use a file system with working flock for runs_dir and data_dir (Lustre: mount it with -o flock)"
        ) from error


@contextlib.contextmanager
def disk_full_is_said(folder: Path) -> Iterator[None]:
    """Turns "no space left" into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            message = f"no space left for {folder}; free some, then run the same command again to resume from the last checkpoint"
            raise DiskFull(message) from error
        raise


@contextlib.contextmanager
def unusable_files_are_said(folder: Path) -> Iterator[None]:
    """Turn an error of the operating system about a file in `folder` into one line."""
    try:
        yield
    except OSError as error:
        if (
            error.filename is None
            or error.errno in DISK_FULL
            or not Path(os.fsdecode(error.filename)).is_relative_to(folder)
        ):
            raise
        raise Unusable(f"{error.filename}: {error.strerror}; fix this, then run the same command again") from error
