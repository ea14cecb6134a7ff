"""Wait for runs on a cluster with a live table, and resubmit runs if their jobs ended too early."""

import contextlib
import shutil
import time
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from rich.live import Live
from rich.table import Table

from scripts.sweep import queue, slurm
from scripts.sweep.local import say_unusable
from scripts.sweep.states import STATES, RunState, states
from tasks.engine.errors import TrainingFailed
from tasks.engine.files import disk_full_is_said
from tasks.engine.terminal import say

POLL_SECONDS, LONGEST_PAUSE = 5.0, 60.0
TRIES = 3


def submit_missing(configs: list[DictConfig], title: str, also_unusable: bool = True) -> None:
    """Submit the runs that have not ended and are not in the queue.
    The user may have fixed unusable files, so a new command tries such runs again. A wait does not.
    Raises slurm.QueueFull if Slurm accepts only some of them now.
    """
    runs_dir = Path(configs[0].runs_dir)
    with disk_full_is_said(runs_dir), queue.submitting(runs_dir):
        found = states(configs)
        missing = [run.cfg for run in found if run.state in ("to do", "stale", *("unusable",) * also_unusable)]
        waiting = Counter(run.state for run in found if run.state in ("running", "queued"))
        if waiting:
            say(f"{title}: {', '.join(f'{count} {state}' for state, count in waiting.items())} already")
        if missing:
            ids = slurm.submit(missing, title)
            counts = f"{len(missing)} of {len(configs)} runs submitted as {', '.join(ids)}"
            say(f"{title}: {counts}; their output is in {runs_dir / 'slurm' / 'jobs'}")


def train_on_cluster(configs: list[DictConfig], title: str) -> None:
    """Submit the runs and return when every run has ended. Raises as `wait_for` does."""
    try:
        submit_missing(configs, title)
    except slurm.QueueFull as full:
        say(f"{title}: {full} (this command does so)")
    wait_for(configs, title)


def wait_for(configs: list[DictConfig], title: str) -> None:
    """Return when every run has ended. Submit those that are not in the queue.

    Raises:
        UserError: the files of some runs are unusable, and the others have ended.
        TrainingFailed: jobs end again and again without any run having ended.
    """
    tries, ended = 0, 0
    pause = POLL_SECONDS
    with Live(refresh_per_second=2) as live:
        while True:
            try:
                found = states(configs)
                pause = POLL_SECONDS
            except queue.NoAnswer as error:
                pause = min(2 * pause, LONGEST_PAUSE)
                say(f"{title}: {error}; asking again in {pause:.0f} s")
                time.sleep(pause)
                continue
            live.update(_table(title, found))
            now = sum(run.ended or run.state == "unusable" for run in found)
            if now == len(found):
                say_unusable(title, [str(run.reason) for run in found if run.state == "unusable"], len(found))
                return
            if now > ended:
                tries, ended = 0, now
            if not any(run.state in ("running", "queued") for run in found):
                tries += 1
                if tries > TRIES:
                    where = Path(configs[0].runs_dir) / "slurm" / "jobs"
                    room = f"{shutil.disk_usage(where).free / 1e6:,.1f} MB are free there"
                    raise TrainingFailed(
                        f"{title}: {TRIES} times all jobs ended before their runs; their output is in {where}; {room}"
                    )
                with contextlib.suppress(queue.NoAnswer):  # the next poll reports it
                    try:
                        submit_missing(configs, title, also_unusable=False)
                    except slurm.QueueFull:  # other jobs of the user fill the queue
                        tries -= 1
            time.sleep(POLL_SECONDS)


def _table(title: str, found: list[RunState]) -> Table:
    """Return counts by state, and the progress of the running ones."""
    counts = Counter(run.state for run in found)
    table = Table("state", "runs", "", title=title)
    for state in STATES:
        if counts[state]:
            running = [
                f"{run.run_id} {run.step}/{run.cfg.num_steps}" for run in found if run.state == state == "running"
            ]
            table.add_row(state, str(counts[state]), ", ".join(running[:3]) + (", ..." if len(running) > 3 else ""))
    return table
