"""A local sweep under random faults ends like an undisturbed one: `make test-chaos SEEDS=1,2,3`.

Faults and their moments are drawn from the seed. After each fault, the same command runs again.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaotic import (
    FAULTS,
    SEEDS,
    SWEEP,
    cut,
    ends,
    every_seed,
    flip,
    gone,
    repeated_beyond_a_checkpoint,
    sweep,
    undisturbed,
)
from commands import ROOT, command

from tasks.engine import checkpoint

pytestmark = pytest.mark.chaos


def workers(parent: subprocess.Popen) -> list[int]:
    """Return the sweep's child processes that train."""
    done = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def kill_a_worker(random_: random.Random, process: subprocess.Popen, _: Path) -> None:
    if pids := workers(process):
        os.kill(random_.choice(pids), signal.SIGKILL)


def kill_the_parent(_: random.Random, process: subprocess.Popen, __: Path) -> None:
    process.kill()


def end_it(_: random.Random, process: subprocess.Popen, __: Path) -> None:
    process.terminate()


def press_ctrl_c(_: random.Random, process: subprocess.Popen, __: Path) -> None:
    os.killpg(process.pid, signal.SIGINT)


def press_ctrl_c_twice(_: random.Random, process: subprocess.Popen, __: Path) -> None:
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)


def damage(pattern: str, how: Callable[[random.Random, bytearray], bytearray]) -> Callable[..., None]:
    """Stop the sweep, then damage a file."""

    def fault(random_: random.Random, process: subprocess.Popen, runs_dir: Path) -> None:
        process.terminate()
        process.wait(timeout=60)
        if paths := sorted(runs_dir.glob(f"*/*/{pattern}")):
            path = random_.choice(paths)
            path.write_bytes(how(random_, bytearray(path.read_bytes())))

    fault.__name__ = f"damage_{pattern}"
    return fault


RECOVERABLE = [
    *(kill_a_worker, kill_a_worker, kill_the_parent, end_it, press_ctrl_c, press_ctrl_c_twice),
    *(
        damage("checkpoint.pt", flip),
        damage("checkpoint.pt", cut),
        damage("metrics.jsonl", cut),
        damage("record.json", flip),
    ),
    damage("starts.jsonl", flip),
]


@every_seed
def test_a_local_sweep_under_random_faults_ends_like_an_undisturbed_one(tmp_path, seed):
    random_, runs_dir = random.Random(seed), tmp_path / "runs"
    told = []
    for _ in range(FAULTS):
        process = sweep(runs_dir)
        fault = random_.choice(RECOVERABLE)
        after = random_.uniform(1, 15)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            fault(random_, process, runs_dir)
            told.append(f"{fault.__name__} after {after:.1f} s")
        if process.poll() is None and fault is kill_a_worker:  # the sweep continues until the next fault
            time.sleep(random_.uniform(1, 5))
            process.terminate()
        process.wait(timeout=60)
        gone(runs_dir, 30)
    print("\n".join(told))
    assert sweep(runs_dir).wait(timeout=600) == 0, runs_dir.with_suffix(".log").read_text()[-3000:]
    assert ends(runs_dir) == undisturbed()
    assert not repeated_beyond_a_checkpoint(runs_dir)
    gone(runs_dir, 5)


def folder_for(name: str) -> Callable[[Path], None]:
    """Return a fault that puts a folder in the place of a file."""

    def fault(folder: Path) -> None:
        if (folder / name).exists():
            os.rename(folder / name, folder / f"{name}.kept")
        (folder / name).mkdir(parents=True)

    return fault


def another_run_s_checkpoint(folder: Path) -> None:
    """Put in a complete checkpoint of another run."""
    folder.mkdir(exist_ok=True)
    checkpoint.save(folder, "another run", {"step": 0})


UNUSABLE = [
    folder_for("checkpoint.pt"),
    folder_for("starts.jsonl"),
    folder_for("metrics.jsonl"),
    another_run_s_checkpoint,
]


@every_seed
def test_faults_that_only_a_user_can_fix_are_reported_and_the_other_runs_finish(tmp_path, seed):
    """Stop a sweep at a random moment, with four runs or more to go, and make files of three of them unusable."""
    random_, runs_dir, count = random.Random(seed), tmp_path / "runs", len(undisturbed())
    process = sweep(runs_dir)
    moment = time.monotonic() + random_.uniform(4, 12)
    while time.monotonic() < moment and len(list(runs_dir.glob("*/*/record.json"))) < count - 4:
        time.sleep(0.05)
    process.terminate()
    process.wait(timeout=60)
    whole = ends(runs_dir)
    chosen = random_.sample(sorted(set(undisturbed()) - set(whole)), 3)
    for run, fault in zip(chosen, random_.sample(UNUSABLE, 3), strict=True):
        fault(runs_dir / "grokking" / run)
    assert sweep(runs_dir).wait(timeout=600) == 2
    assert "3 of " in runs_dir.with_suffix(".log").read_text().splitlines()[-1]
    assert ends(runs_dir) == {run: end for run, end in undisturbed().items() if run not in chosen}
    assert {path.stem for path in runs_dir.glob("*/*.unusable")} == set(chosen)
    folders = [str(runs_dir / "grokking" / run) for run in chosen]
    assert subprocess.run(command("retry.py", *folders, "--yes"), capture_output=True).returncode == 0
    assert sweep(runs_dir).wait(timeout=600) == 0
    assert ends(runs_dir) == undisturbed()


def moments(random_: random.Random, count: int) -> Iterator[float]:
    """Return moments from the first imports to the middle of training."""
    for _ in range(count):
        yield random_.uniform(0.2, 20)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_ctrl_c_at_twenty_moments_of_a_make_sweep_stops_everything_within_ten_seconds(tmp_path, seed):
    random_, runs_dir = random.Random(seed), tmp_path / "runs"
    given = [argument for argument in SWEEP[2:] if not argument.startswith(("seeds=", "jobs="))]
    arguments = ["make", "--no-print-directory", "reproduce-grokking", "SEEDS=1,2", "JOBS=2"]
    arguments.append(f"ARGS={' '.join([*given, f'runs_dir={runs_dir}', f'results_dir={runs_dir}/results'])}")
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("make uses .venv, and these tests run elsewhere")
    for moment in moments(random_, 20):
        process = subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"CHAOS": str(runs_dir)},
        )  # fmt: skip
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
        begin = time.monotonic()
        process.wait(timeout=10)
        gone(runs_dir, 10 - (time.monotonic() - begin))
        before = {path: path.stat().st_mtime_ns for path in runs_dir.glob("*/*/*.jsonl")}
        time.sleep(1)
        assert before == {path: path.stat().st_mtime_ns for path in runs_dir.glob("*/*/*.jsonl")}, (
            "something still trains"
        )
    assert subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=600).returncode == 0
    assert ends(runs_dir) == undisturbed()
