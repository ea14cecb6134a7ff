"""Find the state of runs: done, diverged, failed, running, queued, unusable, stale or to do.
The last attempt of an unusable run found files that it could not use. A stale run has begun, but no
process works on it.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scripts.sweep.queue import Job, in_queue
from tasks.engine import records
from tasks.engine.errors import Unusable
from tasks.engine.files import is_held

STATES = ("done", "diverged", "failed", "running", "queued", "unusable", "stale", "to do")


@dataclass(frozen=True)
class RunState:
    """The state of one run.
    step: the last one in its log, or that of its record if it has ended.
    job: the one that waits or runs for it.
    reason: why it failed or can't be trained.
    """

    cfg: DictConfig
    folder: Path
    state: str
    step: int
    job: Job | None
    record: dict[str, Any] | None = None
    reason: str | None = None

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def ended(self) -> bool:
        """Whether the run has a record."""
        return self.record is not None


def states(configs: Iterable[DictConfig]) -> list[RunState]:
    """Return the state of every run, without waiting for any."""
    configs = list(configs)
    queued = in_queue(Path(configs[0].runs_dir)) if configs else {}
    folders = [records.run_folder(cfg) for cfg in configs]
    return [_state(cfg, folder, queued.get(folder.name)) for cfg, folder in zip(configs, folders, strict=True)]


def _state(cfg: DictConfig, folder: Path, job: Job | None) -> RunState:
    record = whole_record(folder)
    if record is not None:
        state = "done" if record["status"] == "finished" else record["status"]
        return RunState(cfg, folder, state, record["steps"], job, record, record["reason"])
    at_work = is_held(folder) or (job is not None and job.state == "RUNNING" and (folder / ".lock").exists())
    if at_work or job is not None:
        return RunState(cfg, folder, "running" if at_work else "queued", last_step(folder), job)
    if (why := records.unusable(folder)) is not None:
        return RunState(cfg, folder, "unusable", last_step(folder), None, None, why)
    return RunState(cfg, folder, "stale" if (folder / "config.yaml").exists() else "to do", last_step(folder), None)


def whole_record(folder: Path) -> dict[str, Any] | None:
    """Return the record, or None if there is no intact one."""
    try:
        return records.read_record(folder)
    except (records.DamagedRecord, Unusable):
        return None


def last_step(folder: Path) -> int:
    """Return the step of the last complete line of metrics.jsonl, or 0 if there is none."""
    with (
        contextlib.suppress(OSError, IndexError, ValueError, KeyError, TypeError),
        open(folder / "metrics.jsonl", "rb") as log,
    ):
        log.seek(max(0, log.seek(0, 2) - 4096))
        return json.loads(log.read().splitlines()[-1])["step"]
    return 0
