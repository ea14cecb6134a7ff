"""What has become of runs: done, failed, running, queued, stale (begun, and nobody at work on it) or to do."""

import contextlib
import fcntl
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from scripts.launchers.queue import Job, in_queue
from tasks.engine import records

STATES = ("done", "failed", "running", "queued", "stale", "to do")


@dataclass(frozen=True)
class RunState:
    """One run; step is the last one that is in its log."""

    cfg: DictConfig
    run_id: str
    state: str
    step: int
    job: Job | None


def states(configs: Iterable[DictConfig]) -> list[RunState]:
    """The state of every run, without waiting for any."""
    configs = list(configs)
    queued = in_queue(Path(configs[0].runs_dir)) if configs else {}
    return [_state(cfg, queued.get(records.run_id(cfg))) for cfg in configs]


def _state(cfg: DictConfig, job: Job | None) -> RunState:
    folder = records.run_folder(cfg)
    status = status_on_record(folder)
    if status is not None:
        return RunState(cfg, folder.name, "done" if status == "finished" else "failed", cfg.num_steps, None)
    at_work = is_held(folder) or (job is not None and job.state == "RUNNING" and (folder / ".lock").exists())
    if at_work or job is not None:
        return RunState(cfg, folder.name, "running" if at_work else "queued", last_step(folder), job)
    return RunState(cfg, folder.name, "stale" if (folder / "config.yaml").exists() else "to do", last_step(folder), None)


def status_on_record(folder: Path) -> str | None:
    """finished, failed, or None where no whole record is."""
    try:
        record = records.read_record(folder)
    except records.DamagedRecord:
        return None
    return None if record is None else record["status"]


def is_held(folder: Path) -> bool:
    """Whether a process is at work in the folder, as far as its file system tells this machine."""
    with contextlib.suppress(FileNotFoundError), open(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def last_step(folder: Path) -> int:
    """The step of the last whole line of metrics.jsonl; 0 if there is none."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError, KeyError), open(folder / "metrics.jsonl", "rb") as log:
        log.seek(max(0, log.seek(0, 2) - 4096))
        return json.loads(log.read().splitlines()[-1])["step"]
    return 0
