"""Find runs for show.py and compare.py, by folder or by run id under runs_dir."""

import contextlib
import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.sweep.states import last_step, whole_record
from tasks.engine.errors import UserError
from tasks.engine.files import is_held

CONFIG = "config.yaml"  # missing in runs without a model
LOGS = ("metrics.jsonl", "dynamics.jsonl")


@dataclass(frozen=True)
class FoundRun:
    """A run that has begun. record is None until it has ended.
    The logs are read as they are, since a run in progress already has some.
    """

    folder: Path
    config: dict[str, Any]
    record: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    dynamics: list[dict[str, Any]]

    @property
    def state(self) -> str:
        """The record's status with its reason, or the progress of the run."""
        if self.record is not None:
            return ": ".join(str(self.record[key]) for key in ("status", "reason") if self.record[key])
        return f"{'running' if is_held(self.folder) else 'not ended'}, step {last_step(self.folder)} of {self.config['num_steps']}"

    def points(self, name: str) -> list[tuple[int, float]]:
        """Return steps and values of one metric."""
        return [(row["step"], row[name]) for row in self.metrics if isinstance(row.get(name), int | float)]


def find(name: str, runs_dir: Path) -> FoundRun:
    """Return the run in the folder `name`, or with a run id that starts with `name`.
    Raises UserError if there is none, or more than one.
    """
    folder = Path(name)
    if not folder.is_dir():
        folders = sorted(
            {
                path.parent
                for file in (CONFIG, "record.json")
                for path in runs_dir.glob(f"*/{glob.escape(name)}*/{file}")
            }
        )
        exact = [path for path in folders if path.name == name]
        folders = exact or folders
        if not folders:
            raise UserError(
                f"run {name!r} is neither a folder nor the beginning of a run id in {runs_dir}/; set runs_dir= to another folder"
            )
        if len(folders) > 1:
            raise UserError(
                f"run {name!r} is not unique: {', '.join(str(path) for path in folders[:5])}{', ...' * (len(folders) > 5)}"
            )
        folder = folders[0]
    record = whole_record(folder)
    if record is None and not (folder / CONFIG).exists():
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    metrics, dynamics = (read_lines(folder / log) for log in LOGS)
    config = record["config"] if record is not None else yaml.safe_load((folder / CONFIG).read_text())
    return FoundRun(folder, config, record, metrics, dynamics)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log, without one that is being written."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
