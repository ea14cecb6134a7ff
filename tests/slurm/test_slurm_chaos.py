"""A Slurm sweep under random faults ends like an undisturbed local one: `make test-chaos SEEDS=1,2,3`."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaotic import FAULTS, SWEEP, ends, every_seed, gone, repeated_beyond_a_checkpoint, undisturbed
from commands import command, wait_until
from local_slurm import Cluster

pytestmark = pytest.mark.chaos
JOBS = ("launcher=slurm", "launcher.cpus=1", "launcher.memory=1", "launcher.time=30", "launcher.grace_seconds=20")
ON_SLURM = (*JOBS, "launcher.partition=low", "launcher.parallel=3", "wait=true")


class Sweep:
    """A waiting submitter, and the jobs that the cluster runs for it."""

    def __init__(self, cluster: Cluster, runs_dir: Path) -> None:
        self.cluster, self.runs_dir, self.log = cluster, runs_dir, runs_dir.with_suffix(".log")
        self.submit()

    def submit(self) -> None:
        given = [argument for argument in SWEEP if not argument.startswith("jobs=")]
        arguments = command(*given, *ON_SLURM, f"runs_dir={self.runs_dir}", f"results_dir={self.runs_dir / 'results'}")
        with open(self.log, "a") as log:
            self.submitter = subprocess.Popen(
                arguments, stdout=log, stderr=log, env=self.cluster.environment, start_new_session=True
            )

    def jobs(self) -> list[str]:
        lines = self.cluster.call("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%F %K").stdout.splitlines()
        return [f"{job}_{index}" if index.isdigit() else job for job, index in map(str.split, lines)]

    def workers(self) -> list[int]:
        found = []
        for lock in self.runs_dir.glob("grokking/*/.lock"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                os.kill(pid := int(lock.read_text().split()[1]), 0)
                found.append(pid)
        return found


def kill_a_worker(random_: random.Random, sweep: Sweep) -> None:
    if pids := sweep.workers():
        os.kill(random_.choice(pids), signal.SIGKILL)


def kill_a_job_s_process(random_: random.Random, sweep: Sweep) -> None:
    if pids := sweep.workers():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{random_.choice(pids)}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)


def ask_for_a_checkpoint(random_: random.Random, sweep: Sweep) -> None:
    """Send the signal that comes before a time limit."""
    if jobs := sweep.jobs():
        sweep.cluster.call("scancel", "--signal=USR2", f"{random_.choice(jobs)}.0")


def requeue(random_: random.Random, sweep: Sweep) -> None:
    if jobs := sweep.jobs():
        sweep.cluster.call("scontrol", "requeue", random_.choice(jobs))


def cancel(random_: random.Random, sweep: Sweep) -> None:
    if jobs := sweep.jobs():
        sweep.cluster.call("scancel", random_.choice(jobs))


def evict(random_: random.Random, sweep: Sweep) -> None:
    sweep.cluster.srun(
        "--partition=high", f"--nodelist={random_.choice(['n1', 'n2'])}", "--exclusive", "true", timeout=120
    )


def lose_a_node(random_: random.Random, sweep: Sweep) -> None:
    node = random_.choice(["n1", "n2"])
    sweep.cluster.kill_node(node, with_jobs=True)
    sweep.cluster.start_node(node)


def kill_the_submitter(_: random.Random, sweep: Sweep) -> None:
    sweep.submitter.kill()


def press_ctrl_c(_: random.Random, sweep: Sweep) -> None:
    os.killpg(sweep.submitter.pid, signal.SIGINT)


def restart_the_controller(random_: random.Random, sweep: Sweep) -> None:
    sweep.cluster.kill_controller()
    time.sleep(random_.uniform(0, 8))
    sweep.cluster.start_controller()


RECOVERABLE: list[Callable[[random.Random, Sweep], None]] = [
    *(kill_a_worker, kill_a_job_s_process, ask_for_a_checkpoint, requeue, cancel, evict, lose_a_node),
    *(kill_the_submitter, press_ctrl_c, restart_the_controller),
]


@every_seed
def test_a_slurm_sweep_under_random_faults_ends_like_an_undisturbed_one(cluster, tmp_path, seed):
    random_, sweep = random.Random(seed), Sweep(cluster, tmp_path / "runs")
    told = []
    for _ in range(FAULTS):
        with contextlib.suppress(subprocess.TimeoutExpired):
            sweep.submitter.wait(timeout=random_.uniform(0.5, 5))
        if sweep.submitter.poll() is None:
            fault = random_.choice(RECOVERABLE)
            told.append(fault.__name__)
            fault(random_, sweep)
        if sweep.submitter.poll() is not None and set(ends(sweep.runs_dir)) != set(undisturbed()):
            sweep.submit()
    print("\n".join(told))
    for _ in range(3):  # start the submitter again if it was interrupted, or found ended jobs without ended runs
        if sweep.submitter.wait(timeout=600) == 0:
            break
        sweep.submit()
    assert sweep.submitter.wait(timeout=600) == 0, sweep.log.read_text()[-3000:]
    assert ends(sweep.runs_dir) == undisturbed()
    assert not repeated_beyond_a_checkpoint(sweep.runs_dir)
    wait_until(lambda: not cluster.output("squeue", "-h"), 60)
    gone(sweep.runs_dir, 10)
