"""Every start and orderly end of a run's processes: starts.jsonl in its folder, lines of {"start": step} and {"end": step}.

A start without an end was killed, by its memory's shortage for one. A run that is killed again and again without getting further is
called failed (run.py); the file also tells how much of a run was trained in which piece.
"""

import contextlib
import json
import os
from pathlib import Path

LIMIT = 3
NAME = "starts.jsonl"


def note_start(folder: Path, step: int) -> int:
    """Notes that a process takes the run up at `step`; returns how many before it did so there and were killed."""
    killed = 0
    for line in reversed(history(folder)):
        if line != {"start": step}:
            break
        killed += 1
    _append(folder, {"start": step})
    return killed


def note_end(folder: Path, step: int) -> None:
    """Notes that the process ends in an orderly way at `step`: done, failed, or interrupted with a checkpoint."""
    _append(folder, {"end": step})


def history(folder: Path) -> list[dict[str, int]]:
    """All lines, oldest first, without one that was cut off by a kill."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / NAME).read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def _append(folder: Path, line: dict[str, int]) -> None:
    with open(folder / NAME, "a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
