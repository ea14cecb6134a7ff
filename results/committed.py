"""Committed records: results/<scale>/records/<task>.jsonl.gz has a line of JSON for each run, sorted by run id.

A line is {"dynamics", "metrics", "record", "run_id", "sha256"}: record.json with the run's configuration, the
rows of its logs that tables need (results/thinning.py), and the SHA-256 of the line without it. Every table and
figure follows from these lines.
"""

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from results.code import states_of
from results.files import write
from results.runs import Run
from results.thinning import is_loss

Line = Mapping[str, Any]
LEVEL = 9


class DamagedRecords(Exception):
    """A file of records is not what was written, in one line."""


@dataclass(frozen=True)
class Merged:
    """What happened to one file.

    same, close: committed runs that a new one repeats, bit for bit or within the spread over seeds.
    disagreeing: a line for each new run that is neither.
    """

    path: Path
    runs: int
    new: int
    same: int
    close: int
    disagreeing: tuple[str, ...]

    def __str__(self) -> str:
        counts = {"new": self.new, "as committed": self.same, "within the spread over seeds": self.close}
        counts["that disagree"] = len(self.disagreeing)
        said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        return f"{self.path}: {self.runs} run{'s' if self.runs > 1 else ''} ({said})"


def path_of(root: Path, scale: str, task: str) -> Path:
    """Return the file of a task's records in the folder `root` of all scales."""
    return root / scale / "records" / f"{task}.jsonl.gz"


def read_records(root: Path, scale: str, task: str) -> list[Run]:
    """Return a task's committed runs, sorted by run id. They have no folder. Empty without the file.

    Raises:
        DamagedRecords: The file can't be unpacked, or a line doesn't match its SHA-256.
    """
    lines = lines_of(path_of(root, scale, task)).values()
    return [Run(line["record"]["config"], line["record"], line["metrics"], line["dynamics"]) for line in lines]


def write_records(runs: Iterable[Run], root: Path, *, replace: bool = False) -> list[Merged]:
    """Add finished and diverged runs to the records of their scales and tasks. Return what happened to each file.

    A run that is committed stays as it is. A new run with its id must agree: bit for bit on the same hardware
    with the same versions and kernel, elsewhere within the spread over seeds of its cell.

    Args:
        root: the folder of all scales, such as results.
        replace: let a new run that disagrees take the committed one's place.
    """
    files: dict[Path, dict[str, Line]] = {}
    for run in runs:
        if run.status in ("finished", "diverged"):
            path = path_of(root, str(run.config["scale"]), run.task)
            files.setdefault(path, {})[run.run_id] = line_of(run)
    return [_merge(path, new, replace) for path, new in sorted(files.items())]


def line_of(run: Run) -> Line:
    """Return the content of a run's line, without its SHA-256."""
    thin = run.thinned()
    return {"run_id": run.run_id, "record": run.record, "metrics": list(thin.metrics), "dynamics": list(thin.dynamics)}


def _merge(path: Path, new: Mapping[str, Line], replace: bool) -> Merged:
    old = lines_of(path)
    every = {**new, **old}
    verdicts = {run_id: agreement(old[run_id], line, every.values()) for run_id, line in new.items() if run_id in old}
    apart = {run_id: verdict for run_id, verdict in verdicts.items() if verdict not in (SAME, CLOSE)}
    if replace:
        every |= {run_id: new[run_id] for run_id in apart}
    if every != old:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, packed([every[run_id] for run_id in sorted(every)]))
    word = "replaced" if replace else "the committed one stays"
    said = tuple(f"{run_id}: {verdict}; {word}" for run_id, verdict in sorted(apart.items()))
    found = list(verdicts.values())
    return Merged(path, len(every), len(new.keys() - old.keys()), found.count(SAME), found.count(CLOSE), said)


# ---- Whether two runs with one id agree

SAME, CLOSE = "bit for bit", "within the spread over seeds"


def agreement(old: Line, new: Line, every: Iterable[Line]) -> str:
    """Return SAME, CLOSE, or in words how a new run differs from the committed one.

    Args:
        every: the lines of the task, among them the runs of the same cell.
    """
    before, after = old["record"], new["record"]
    if _outcome(old) == _outcome(new):
        return SAME
    if before["status"] != after["status"]:
        return f"{before['status']} as committed, {after['status']} now"
    name = before["metric"]["name"] if before.get("metric") else min(before["metrics"], default="")
    scores = [record["metrics"].get(name, math.nan) for record in (before, after)]
    values = f"{name} is {scores[0]!r} as committed and {scores[1]!r} now"
    if len(_places(before) | _places(after)) == 1:
        said = values if scores[0] != scores[1] else "the other scores or the evaluation curve differ"
        return f"not bit for bit with the same hardware, versions and kernel: {said}"
    spread = _spread(old, every, name)
    if before["status"] == "diverged" or abs(scores[0] - scores[1]) <= spread:
        return CLOSE
    return f"{values}, further apart than the standard deviation over the seeds of its cell, {spread:.3g}"


def _outcome(line: Line) -> str:
    """Return what must be equal bit for bit: status, scores and evaluation curve."""
    record = line["record"]
    return _text([record["status"], record["metrics"], [row for row in line["metrics"] if not is_loss(row)]])


def _places(record: Mapping[str, Any]) -> set[str]:
    """Return the hardware, versions and kernel of all states that trained a run."""
    return {_text([state.get(key) for key in ("hardware", "versions", "kernel")]) for state in states_of(record)}


def _spread(line: Line, every: Iterable[Line], name: str) -> float:
    """Return the standard deviation of a score over the seeds of a run's cell, 0 with fewer than two."""
    scores = [other["record"]["metrics"].get(name) for other in every if _cell(other) == _cell(line)]
    known = [score for score in scores if score is not None]
    return stdev(known) if len(known) > 1 else 0.0


def _cell(line: Line) -> dict[str, Any]:
    return {key: value for key, value in line["record"]["config"].items() if key != "seed"}


# ---- The file


def packed(lines: Sequence[Line]) -> bytes:
    """Return the lines as gzip without time stamp and file name, so that equal lines are equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", LEVEL, buffer, mtime=0) as file:
        for line in lines:
            file.write(_text({**line, "sha256": _digest(line)}).encode() + b"\n")
    return buffer.getvalue()


def lines_of(path: Path) -> dict[str, Line]:
    """Return the lines of a file by run id. Empty without the file. Raises DamagedRecords."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.exists() else b""
        lines = [json.loads(line) for line in content.splitlines()]
        wrong = [line["run_id"] for line in lines if line.pop("sha256") != _digest(line)]
        found = {line["run_id"]: line for line in lines}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedRecords(f"{path} is damaged ({error}); restore it with: git checkout -- {path}") from None
    if wrong:
        raise DamagedRecords(
            f"{path} is damaged: {', '.join(wrong)} does not match its SHA-256; restore it with: git checkout -- {path}"
        )
    return found


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(line: Line) -> str:
    return hashlib.sha256(_text(line).encode()).hexdigest()
