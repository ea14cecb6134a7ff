"""The Slurm that scripts/slurm/local_cluster.sh starts, as tests use it."""

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "slurm" / "local_cluster.sh"
NO_SLURM_HERE = 3  # the script's exit code where a local Slurm cannot be


def call_script(*arguments: str) -> subprocess.CompletedProcess:
    # 600 s: the first start installs packages.
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=600)


class Cluster:
    """Two nodes, n1 and n2, of 16 CPUs and 8 GPUs each, with the partitions ci, low and high.

    environment: the caller's, without variables of another Slurm and with SLURM_CONF, for processes that are to use this cluster.
    """

    def __init__(self) -> None:
        root = Path(os.environ.get("SLURM_ROOT", REPOSITORY / ".slurm")).resolve()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SACCT_"))
        }
        self.environment = inherited | {"SLURM_CONF": str(root / "etc" / "slurm.conf")}

    def call(self, *command: Any, timeout: float = 60) -> subprocess.CompletedProcess:
        """Any command with this cluster's environment; its exit code is the caller's to look at."""
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=timeout, env=self.environment
        )

    def output(self, *command: Any) -> str:
        """The same of a command that must succeed: what it wrote, stripped."""
        done = self.call(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def srun(self, *arguments: Any, timeout: float = 60) -> subprocess.CompletedProcess:
        return self.call("srun", *arguments, timeout=timeout)

    def sbatch(self, script: str, folder: Path, *options: Any) -> str:
        """Submits lines of bash as a job that runs and writes its log in `folder`; returns the job id."""
        where = (f"--chdir={folder}", f"--output={folder / '%j.log'}")
        return self.output("sbatch", "--parsable", *where, *options, f"--wrap={script}")

    def sacct_state(self, job_id: str) -> str:
        """The state in the accounting, which is seconds late: empty before it knows the job; of an array, say, "COMPLETED,RUNNING"."""
        lines = self.output("sacct", "-XnP", "--jobs", job_id, "--format=State").splitlines()
        return ",".join(sorted({line.split()[0] for line in lines}))  # "CANCELLED by 0" is CANCELLED

    def wait_for(self, job_id: str, states: str | Iterable[str], timeout: float = 60) -> str:
        """Returns the state once sacct says one of `states`, of an array for all tasks; fails after `timeout` seconds."""
        wanted = {states} if isinstance(states, str) else set(states)
        end = time.monotonic() + timeout
        while not (state := self.sacct_state(job_id)) or not set(state.split(",")) <= wanted:
            if time.monotonic() > end:
                known = (
                    self.call("scontrol", "show", "job", job_id).stdout + self.call("sacct", "-D", "-j", job_id).stdout
                )
                raise AssertionError(f"job {job_id} is {state or 'unknown'}, not {wanted}, after {timeout} s\n{known}")
            time.sleep(0.25)
        return state

    def kill_node(self, name: str, with_jobs: bool = False) -> None:
        """kill -9 of the node's slurmd. Its jobs run on; with_jobs: they die too, and Slurm is told that the node is down."""
        done = call_script("kill-node", name, *(["--with-jobs"] if with_jobs else []))
        assert done.returncode == 0, done.stderr

    def kill_controller(self) -> None:
        """kill -9 of slurmctld. Jobs run on."""
        done = call_script("kill-controller")
        assert done.returncode == 0, done.stderr

    def start_controller(self) -> None:
        """Start slurmctld; return when it answers."""
        done = call_script("start-controller")
        assert done.returncode == 0, done.stderr

    def start_node(self, name: str) -> None:
        """Starts the node's slurmd; returns when it takes jobs."""
        done = call_script("start-node", name)
        assert done.returncode == 0, done.stderr
