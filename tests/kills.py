"""Kill runs again and again, and compare their ends."""

import contextlib
import json
import signal
from pathlib import Path

from commands import call, start, wait_until


def only_folder(runs_dir: Path) -> Path:
    (folder,) = runs_dir.glob("*/*-s*")
    return folder


def same_end(runs_dir: Path, other: Path) -> None:
    """Fail unless both runs ended with the same bits: parameters, optimizer state, metrics and dynamics."""
    a, b = only_folder(runs_dir), only_folder(other)
    first, second = (json.loads((folder / "record.json").read_text()) for folder in (a, b))
    assert first["state_sha256"] == second["state_sha256"]
    assert first["metrics"] == second["metrics"]
    for name in ("metrics.jsonl", "dynamics.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def last_logged(runs_dir: Path) -> int:
    """Return the last step in dynamics.jsonl, or 0 if there is none yet."""
    steps = [0]
    for log in runs_dir.glob("*/*/dynamics.jsonl"):
        for line in log.read_text().splitlines()[1:]:
            with contextlib.suppress(ValueError):
                steps.append(json.loads(line)["step"])
    return max(steps)


def killed_runs_end_the_same(tmp_path: Path, *arguments: str) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert call("train.py", *arguments, f"runs_dir={undisturbed}").returncode == 0
    for stop_at in (7, 28, 42):  # before, about and after the step at which κ is set
        process = start("train.py", *arguments, f"runs_dir={killed}")
        wait_until(
            lambda process=process, stop_at=stop_at: process.poll() is not None or last_logged(killed) >= stop_at
        )
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert call("train.py", *arguments, f"runs_dir={killed}").returncode == 0
    same_end(undisturbed, killed)
