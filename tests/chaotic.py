"""Shared by the sweeps under random faults: the sweep, its expected end, and faults in files."""

import functools
import hashlib
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from commands import command, records

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "1").split(",")]
STEPS, EVERY, FAULTS = 400, 20, int(os.environ.get("CHAOS_FAULTS", "12"))
SWEEP = (
    *(
        "reproduce.py",
        "grokking",
        "seeds=1,2,3,4,5,6",
        "jobs=2",
        f"num_steps={STEPS}",
        f"checkpoint_every_steps={EVERY}",
    ),
    *("task.model.width=32", "task.batch_size=64", "task.log_every_steps=10", "task.eval_every_steps=200"),
)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def sweep(runs_dir: Path) -> subprocess.Popen:
    """Start the sweep in its own process group, as a shell does."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "CHAOS": str(runs_dir),
    }  # marks the workers
    arguments = [*command(*SWEEP), f"runs_dir={runs_dir}", f"results_dir={runs_dir / 'results'}"]
    with open(runs_dir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, start_new_session=True)


@functools.cache
def undisturbed() -> dict[str, tuple[str, str, str]]:
    """Return the ends of the runs of an undisturbed sweep."""
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = Path(folder) / "runs"
        assert sweep(runs_dir).wait(timeout=600) == 0
        return ends(runs_dir)


def ends(runs_dir: Path) -> dict[str, tuple[str, str, str]]:
    """Return the end of every run: status, trained weights, and the bytes of its log."""
    return {
        run_id: (
            record["status"],
            record["state_sha256"],
            hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest(),
        )
        for run_id, record in records(runs_dir).items()
        for folder in runs_dir.glob(f"*/{run_id}")
    }


def processes_of(runs_dir: Path) -> list[int]:
    """Return the processes that work for the sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            arguments = (path.parent / "cmdline").read_bytes()
            if f"runs_dir={runs_dir}".encode() in arguments or f"CHAOS={runs_dir}".encode() in path.read_bytes().split(
                b"\0"
            ):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def flip(random_: random.Random, content: bytearray) -> bytearray:
    if content:
        content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    return content


def cut(random_: random.Random, content: bytearray) -> bytearray:
    return content[: random_.randrange(len(content) + 1)]


def repeated_beyond_a_checkpoint(runs_dir: Path) -> list[str]:
    """Return the starts at a step at which no checkpoint was due and no process ended."""
    wrong = []
    for path in runs_dir.glob("*/*/starts.jsonl"):
        orderly = {0}
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the fault damaged this file, so nothing is known about this run
                orderly = set(range(STEPS + 1))
                continue
            if "end" in entry:
                orderly.add(entry["end"])
            if "start" in entry and entry["start"] % EVERY and entry["start"] not in orderly:
                wrong.append(f"{path}: {entry['start']}")
    return wrong


def gone(runs_dir: Path, seconds: float) -> None:
    """Fail unless all processes of the sweep end by themselves."""
    end = time.monotonic() + seconds
    while left := processes_of(runs_dir):
        assert time.monotonic() < end, f"{len(left)} processes are left"
        time.sleep(0.2)
