"""Messages on the terminal, and the warnings of runs. Doesn't import torch."""

import contextlib
import hashlib
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tasks.engine.launch import launched

WARNINGS = "warnings.log"  # in a run's folder
_lead = ""  # what a message begins with
_run: Path | None = None  # the folder of the run that this process trains
_told: Path | None = None  # in a sweep: has an empty file for each warning that was shown


def say(message: str) -> None:
    """Write one line to stderr without breaking a progress bar. Only the run's first process writes."""
    if launched().rank == 0:
        tqdm.write(_lead + message, file=sys.stderr)


def say_beside_a_bar() -> None:
    """From now on begin each message on a line of its own, as another process's progress bar may be on the last one."""
    global _lead
    _lead = "\r\033[K" if sys.stderr.isatty() else "\n"


def warn(message: str) -> None:
    """Write a warning with the run's name, and keep it in the run's folder.
    A sweep shows each warning once, whatever number of its runs cause it.
    """
    if launched().rank:
        return
    text = " ".join(message.split())
    if _run is not None:
        with contextlib.suppress(OSError), open(_run / WARNINGS, "a") as log:
            log.write(f"{text}\n")
    if _is_new(text):
        run = f"{_run.name}: " if _run is not None else ""
        others = f" (shown once; {WARNINGS} in a run's folder has its own)" if _told is not None else ""
        say(f"warning: {run}{text}{others}")


def _is_new(text: str) -> bool:
    """Return whether no process of the sweep has shown the warning. A file decides, as it needs no lock."""
    if _told is None:
        return True
    try:
        (_told / hashlib.sha256(text.encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the folder is gone with the process that made it
        return True
    return True


def show_once(folder: Path | None) -> None:
    """From now on show each warning once. The processes of a sweep share the folder. None: show all."""
    global _told
    _told = folder


@contextlib.contextmanager
def shown_once() -> Iterator[Path]:
    """Show each warning of the block once. Its worker processes call `show_once` with the folder that this gives."""
    with tempfile.TemporaryDirectory(prefix="cpr-warnings-") as folder:
        show_once(Path(folder))
        try:
            yield Path(folder)
        finally:
            show_once(None)


def show_python_warnings() -> None:
    """From now on show warnings of Python's `warnings` as `warn` does."""
    warnings.showwarning = _show


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    warn(f"{message} ({category.__name__} at {Path(filename).name}:{lineno})")


@contextlib.contextmanager
def warnings_of(folder: Path) -> Iterator[None]:
    """Show the block's warnings as those of the run in this folder."""
    global _run
    before, shown = _run, warnings.showwarning
    _run = folder
    show_python_warnings()
    # Changes no filter. It makes Python forget what it has shown, so that each run gets its own warnings.
    warnings.simplefilter("default", append=True)
    try:
        yield
    finally:
        _run, warnings.showwarning = before, shown
