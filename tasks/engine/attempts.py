"""starts.jsonl in a run's folder: every start and orderly end of its processes, and what each start ran on.

    {"begin": "2026-11-30T02:00:00+00:00", "host": "node7"}   before the model is built
    {"start": 120, "state": {"git_commit": ..., ...}}          before the first step; 120 are done
    {"end": 480}                                               done, failed, or interrupted with a
        checkpoint

An attempt without an end was killed, for example for its memory. A run that is killed repeatedly
without making progress counts as failed (run.py). Damaged lines are skipped.
"""

import contextlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tasks.engine.files import errors_name

LIMIT = 3
NAME = "starts.jsonl"


class Attempt(NamedTuple):
    """One start of a run.

    `step` is None if the attempt died before its first step. `state` is None if an older version of
    the suite wrote the line.
    """

    step: int | None
    ended: bool
    state: dict[str, Any] | None


def note_begin(folder: Path) -> int:
    """Note that a process begins to build the model.

    Return how many attempts in a row died before their first step.
    """
    deaths = 0
    for attempt in reversed(history(folder)):
        if attempt.ended or attempt.step is not None:
            break
        deaths += 1
    _append(folder, {"begin": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()})
    return deaths


def note_start(folder: Path, step: int, state: dict[str, Any]) -> int:
    """Note that training continues the run at `step`.

    Return how many attempts in a row were killed without making progress.
    """
    deaths = 0
    past = history(folder)
    if past and past[-1].step is None and not past[-1].ended:
        past.pop()  # the begin of this attempt
    for attempt in reversed(past):
        if attempt.ended or attempt.step not in (None, step):
            break
        deaths += 1
    _append(folder, {"start": step, "state": state})
    return deaths


def note_end(folder: Path, step: int | None) -> None:
    """Note that the process ends in an orderly way at `step`, or before its first step (None)."""
    _append(folder, {"end": step})


def history(folder: Path) -> list[Attempt]:
    """Return all attempts, oldest first."""
    found: list[Attempt] = []
    begun = False  # the last attempt has a begin and no start yet
    for line in lines(folder):
        if "begin" in line:
            found.append(Attempt(None, False, None))
        elif "start" in line:
            attempt = Attempt(line["start"], False, line.get("state"))
            found[len(found) - begun :] = [attempt]
        elif "end" in line and found:
            found[-1] = found[-1]._replace(ended=True)
        begun = "begin" in line
    return found


def states(folder: Path) -> list[dict[str, Any]]:
    """Return the states that trained a run's steps: [{"from": step, "git_commit": ..., ...}], oldest first.

    This is the account of starts.jsonl. A run itself carries its states in its checkpoint
    (`taken_up`).
    """
    found: list[dict[str, Any]] = []
    for step, _, state in history(folder):
        if step is not None:
            found = taken_up(found, step, state)
    return found


def taken_up(before: list[dict[str, Any]], step: int, state: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a run's states after `state` continues it at `step`.

    Steps beyond `step` are trained again, so their states are dropped. Equal states in a row become
    one entry. An entry is {"from": step} alone if nothing is known, as for the first steps of a run
    whose history was lost.
    """
    kept = [entry for entry in before if entry["from"] < step]
    if step > 0 and (not kept or kept[0]["from"] > 0):
        kept.insert(0, {"from": 0})
    entry = (state or {}) | {"from": step}
    return kept if kept and same(kept[-1], entry) else [*kept, entry]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two states are equal, regardless of the step they start from."""
    return {**one, "from": 0} == {**other, "from": 0}


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the intact lines of starts.jsonl, skipping any that this module can't have written."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / NAME).read_bytes().splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict) and _is_step(value.get("start", 0)):
                    found.append({key: one for key, one in value.items() if key != "state" or isinstance(one, dict)})
    return found


def _is_step(value: Any) -> bool:
    return type(value) is int and value >= 0


def _append(folder: Path, line: dict[str, Any]) -> None:
    path = folder / NAME
    with errors_name(path), open(path, "ab+") as file:
        if file.tell() and not _ends_with_newline(file):
            file.write(b"\n")  # a kill cut off the line before
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
