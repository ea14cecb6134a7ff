"""On a real Slurm, a failure of one run or of the controller does not affect other runs.

docs/reference/failures.md has the rules."""

import subprocess
from pathlib import Path

from commands import command, records, wait_until
from local_slurm import Cluster

from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from scripts.sweep.states import last_step
from tasks.engine.records import run_folder

SMALL = {"task.model.width": "32", "task.batch_size": "64", "task.log_every_steps": "8", "task.eval_every_steps": "80"}
JOBS = (
    "launcher=slurm",
    "launcher.cpus=1",
    "launcher.memory=1",
    "launcher.time=30",
    "launcher.grace_seconds=20",
    "launcher.parallel=3",
    "wait=true",
)


def arguments(runs_dir: Path, **more: str) -> dict[str, str]:
    return SMALL | {"checkpoint_every_steps": "40", "runs_dir": str(runs_dir)} | more


def typed(given: dict[str, str], *more: str) -> list[str]:
    return command("reproduce.py", "grokking", *(f"{key}={value}" for key, value in given.items()), *more)


def folders(given: dict[str, str]) -> list[Path]:
    return [run_folder(cfg) for cfg in expand(load_artefact("grokking"), {"scale": "mini"}, given).values()]


def start(cluster: Cluster, call: list[str]) -> subprocess.Popen:
    return subprocess.Popen(call, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_model_that_does_not_fit_is_failed_after_three_attempts_and_not_queued_again(cluster, tmp_path):
    given = arguments(tmp_path, num_steps="8") | {"task.model.width": "4000000"}
    done = cluster.call(*typed(given, *JOBS, "launcher.runs_per_job=2", "launcher.memory=8"), timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert {(record["status"], record["reason"]) for record in records(tmp_path).values()} == {
        ("failed", "out of memory before its first step, in 3 attempts")
    }
    assert not cluster.output("squeue", "-h")


def test_runs_with_unusable_files_are_reported_and_the_others_are_trained(cluster, tmp_path):
    """One run has a folder in place of its checkpoint. Another loses its lock while it trains."""
    here, there = arguments(tmp_path / "here", num_steps="1200"), arguments(tmp_path / "there", num_steps="1200")
    assert cluster.call(*typed(here, "jobs=2"), timeout=300).returncode == 0
    blocked, unlocked, *good = folders(there)
    (blocked / "checkpoint.pt").mkdir(parents=True)
    waiter = start(cluster, typed(there, *JOBS))
    wait_until(lambda: last_step(unlocked) > 0, 120)
    (unlocked / ".lock").unlink()
    said, _ = waiter.communicate(timeout=300)
    assert waiter.returncode == 2, said
    assert "2 of 6 runs cannot be trained, the others have ended" in said and str(blocked) in said
    assert set(records(tmp_path / "there")) == {folder.name for folder in good}
    ready = cluster.call(*command("retry.py", str(blocked), str(unlocked), "--yes"))
    assert ready.returncode == 0 and ".lock is no longer this process's lock" in ready.stdout, ready.stderr
    done = cluster.call(*typed(there, *JOBS), timeout=300)
    assert done.returncode == 0, done.stderr
    ends = [
        {run: record["state_sha256"] for run, record in records(tmp_path / where).items()}
        for where in ("here", "there")
    ]
    assert ends[0] == ends[1] and len(ends[0]) == 6


def test_waiting_survives_a_restart_of_the_controller(cluster, tmp_path):
    given = arguments(tmp_path, num_steps="1200")
    folder, *_ = folders(given)
    waiter = start(cluster, typed(given, *JOBS))
    assert waiter.stdout is not None
    wait_until(lambda: last_step(folder) > 0, 120)
    cluster.kill_controller()
    try:
        said = ""
        while "asking again in" not in said:
            line = waiter.stdout.readline()
            assert line, said
            said += line
    finally:
        cluster.start_controller()
    rest, _ = waiter.communicate(timeout=300)
    assert waiter.returncode == 0, said + rest
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"] * 6
