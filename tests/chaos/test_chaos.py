"""A sweep under random faults ends as an undisturbed one: `make test-chaos SEEDS=1,2,3`, about 10 minutes a seed on 2 cores.

Faults and moments are drawn from the seed. After each the same command is given again, as a user would.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import ROOT, command, records

pytestmark = pytest.mark.chaos
SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "1").split(",")]
STEPS, EVERY, FAULTS = 400, 20, int(os.environ.get("CHAOS_FAULTS", "12"))
SWEEP = (
    *("reproduce.py", "grokking", "seeds=1,2", "jobs=2", f"num_steps={STEPS}", f"checkpoint_every_steps={EVERY}"),
    *("task.model.width=32", "task.batch_size=64", "task.log_every_steps=10", "task.eval_every_steps=200"),
)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def sweep(runs_dir: Path) -> subprocess.Popen:
    """The sweep in a process group of its own, as a shell starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CHAOS": str(runs_dir)}  # by which workers are known
    arguments = [*command(*SWEEP), f"runs_dir={runs_dir}", f"results_dir={runs_dir / 'results'}"]
    with open(runs_dir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, start_new_session=True)


def ends(runs_dir: Path) -> dict[str, tuple[str, str, str]]:
    """What every run ended as: status, trained weights, and the bytes of its log."""
    return {
        run_id: (record["status"], record["state_sha256"], hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest())
        for run_id, record in records(runs_dir).items()
        for folder in runs_dir.glob(f"*/{run_id}")
    }


def processes_of(runs_dir: Path) -> list[int]:
    """Whoever works for the sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            arguments = (path.parent / "cmdline").read_bytes()
            if f"runs_dir={runs_dir}".encode() in arguments or f"CHAOS={runs_dir}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, tuple[str, str, str]]:
    runs_dir = tmp_path_factory.mktemp("undisturbed") / "runs"
    assert sweep(runs_dir).wait(timeout=600) == 0
    return ends(runs_dir)


def workers(parent: subprocess.Popen) -> list[int]:
    """The processes that train, children of the sweep."""
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


def flip(random_: random.Random, content: bytearray) -> bytearray:
    if content:
        content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    return content


def cut(random_: random.Random, content: bytearray) -> bytearray:
    return content[: random_.randrange(len(content) + 1)]


RECOVERABLE = [
    *(kill_a_worker, kill_a_worker, kill_the_parent, end_it, press_ctrl_c, press_ctrl_c_twice),
    *(damage("checkpoint.pt", flip), damage("checkpoint.pt", cut), damage("metrics.jsonl", cut), damage("record.json", flip)),
    damage("starts.jsonl", flip),
]


def repeated_beyond_a_checkpoint(runs_dir: Path) -> list[str]:
    """Starts at a step at which no checkpoint was due and no process ended."""
    wrong = []
    for path in runs_dir.glob("*/*/starts.jsonl"):
        orderly = {0}
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the fault damaged it: nothing can be said of this run
                orderly = set(range(STEPS + 1))
                continue
            if "end" in entry:
                orderly.add(entry["end"])
            if "start" in entry and entry["start"] % EVERY and entry["start"] not in orderly:
                wrong.append(f"{path}: {entry['start']}")
    return wrong


@every_seed
def test_a_local_sweep_under_random_faults_ends_as_an_undisturbed_one(tmp_path, undisturbed, seed):
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
        if process.poll() is None and fault is kill_a_worker:  # the sweep goes on; the next fault meets it anew
            time.sleep(random_.uniform(1, 5))
            process.terminate()
        process.wait(timeout=60)
        _gone(runs_dir, 30)
    print("\n".join(told))
    assert sweep(runs_dir).wait(timeout=600) == 0, runs_dir.with_suffix(".log").read_text()[-3000:]
    assert ends(runs_dir) == undisturbed
    assert not repeated_beyond_a_checkpoint(runs_dir)
    _gone(runs_dir, 5)


def _gone(runs_dir: Path, seconds: float) -> None:
    """Fails unless all processes of the sweep end by themselves."""
    end = time.monotonic() + seconds
    while left := processes_of(runs_dir):
        assert time.monotonic() < end, f"{len(left)} processes are left"
        time.sleep(0.2)


def moments(random_: random.Random, count: int) -> Iterator[float]:
    """From the first imports to the middle of the training."""
    for _ in range(count):
        yield random_.uniform(0.2, 20)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_ctrl_c_at_twenty_moments_of_a_sweep_through_make_stops_everything_within_ten_seconds(tmp_path, undisturbed, seed):
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
        _gone(runs_dir, 10 - (time.monotonic() - begin))
        before = {path: path.stat().st_mtime_ns for path in runs_dir.glob("*/*/*.jsonl")}
        time.sleep(1)
        assert before == {path: path.stat().st_mtime_ns for path in runs_dir.glob("*/*/*.jsonl")}, "something still trains"
    assert subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=600).returncode == 0
    assert ends(runs_dir) == undisturbed
