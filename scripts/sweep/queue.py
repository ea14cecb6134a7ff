"""Track submissions to Slurm: a note written before each submission, and squeue's report on its jobs.
<runs_dir>/slurm/<token>.json holds the run ids of a submission's jobs, in the order of their array
indices. The token is in the jobs' name. So the next submitter knows all jobs, even if the last one
was killed.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.engine.errors import Held, UserError
from tasks.engine.files import only_process, write_bytes_atomically

PREFIX = "cpr-"


class NoAnswer(UserError):
    """The cluster's controller does not answer. It may be restarting."""


ENDED = (
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "COMPLETING",
)


@dataclass(frozen=True)
class Job:
    """A job in the queue.
    id: as scancel and scontrol take it.
    state: in squeue's words (PENDING, RUNNING, ...).
    """

    id: str
    state: str


def note_submission(runs_dir: Path, title: str, jobs: list[list[str]]) -> str:
    """Record the run ids of the jobs before they are submitted, and return the name that the jobs must have."""
    folder = own_folder(runs_dir)
    token = secrets.token_hex(6)
    write_bytes_atomically(folder / f"{token}.json", json.dumps({"title": title, "jobs": jobs}).encode())
    return f"{PREFIX}{re.sub('[^a-z0-9_]', '-', title.lower())}-{token}"


def forget_submission(runs_dir: Path, name: str) -> None:
    """Remove the note of jobs that Slurm has refused."""
    (runs_dir / "slurm" / f"{name.rpartition('-')[2]}.json").unlink(missing_ok=True)


def in_queue(runs_dir: Path) -> dict[str, Job]:
    """Return run id -> job for every run that is in Slurm's queue, or {} without Slurm.
    Raises UserError if Slurm does not answer.
    """
    found: dict[str, Job] = {}
    if not (runs_dir / "slurm").exists() or shutil.which("squeue") is None:
        return found
    notes: dict[str, list[list[str]]] = {}
    for line in own_jobs():
        name, job, array, index, state = line.split("|")
        token = name.rpartition("-")[2]
        path = runs_dir / "slurm" / f"{token}.json"
        if not name.startswith(PREFIX) or state in ENDED or not path.exists():
            continue
        jobs = notes.setdefault(token, json.loads(path.read_text())["jobs"])
        place = int(index) if index.isdigit() else 0
        for run_id in jobs[place]:
            found[run_id] = Job(f"{array}_{index}" if index.isdigit() else job, state)
    return found


def own_jobs() -> list[str]:
    """Return a line name|job|array|index|state for each of the user's jobs. Raises NoAnswer."""
    try:
        done = subprocess.run(
            ["squeue", "--me", "-h", "-r", "-o", "%j|%A|%F|%K|%T"], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer("squeue does not answer; check that the cluster's controller is up") from None
    if done.returncode:
        raise NoAnswer(f"squeue failed: {' '.join(done.stderr.split())}")
    return done.stdout.splitlines()


def own_folder(runs_dir: Path) -> Path:
    """Return <runs_dir>/slurm, readable and writable only by its owner, because its files run as that user.
    Raises UserError if it belongs to another user, because squeue --me would not show that user's
    jobs.
    """
    folder = runs_dir / "slurm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder.stat().st_uid
        if owner == os.getuid():
            folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"runs_dir={runs_dir} cannot hold runs: {error}") from error
    if owner != os.getuid():
        raise UserError(
            f"{folder} belongs to user {owner}, who submits the runs of this folder; set runs_dir= to a folder of your own"
        )
    return folder


@contextlib.contextmanager
def submitting(runs_dir: Path) -> Iterator[None]:
    """Hold the right to submit runs of this folder, so that two commands do not submit the same runs.
    Raises Held if another process is submitting.
    """
    folder = own_folder(runs_dir)
    try:
        with only_process(folder):
            yield
    except Held as error:
        raise Held(
            "another process is submitting runs of this folder; run the same command again in a moment"
        ) from error
