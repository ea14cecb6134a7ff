"""Use the Slurm of scripts/slurm/local_cluster.sh in tests."""

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "slurm" / "local_cluster.sh"
NO_SLURM_HERE = 3  # the script's exit code if no local Slurm can run here


def call_script(*arguments: str) -> subprocess.CompletedProcess:
    # 600 s: the first start installs packages.
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=600)


class Cluster:
    """A cluster of two nodes, n1 and n2, with 16 CPUs and 8 GPUs each, and partitions ci, low and high.

    Processes that use this cluster need `environment`. It is the caller's with SLURM_CONF and without
    the variables of another Slurm.
    """

    def __init__(self) -> None:
        root = Path(os.environ.get("SLURM_ROOT", REPOSITORY / ".slurm")).resolve()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SACCT_"))
        }
        self.environment = inherited | {"SLURM_CONF": str(root / "etc" / "slurm.conf")}

    def call(self, *command: Any, timeout: float = 60) -> subprocess.CompletedProcess:
        """Run a command with this cluster's environment. The caller checks its exit code."""
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=timeout, env=self.environment
        )

    def output(self, *command: Any) -> str:
        """Run a command that must succeed and return its stripped output."""
        done = self.call(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def srun(self, *arguments: Any, timeout: float = 60) -> subprocess.CompletedProcess:
        return self.call("srun", *arguments, timeout=timeout)

    def sbatch(self, script: str, folder: Path, *options: Any) -> str:
        """Submit lines of bash as a job that runs and writes its log in `folder`. Return the job id."""
        where = (f"--chdir={folder}", f"--output={folder / '%j.log'}")
        return self.output("sbatch", "--parsable", *where, *options, f"--wrap={script}")

    def sacct_state(self, job_id: str) -> str:
        """Return the state in the accounting, which is seconds late.

        It is empty before the accounting knows the job. An array gives "COMPLETED,RUNNING", for example.
        """
        lines = self.output("sacct", "-XnP", "--jobs", job_id, "--format=State").splitlines()
        return ",".join(sorted({line.split()[0] for line in lines}))  # "CANCELLED by 0" is CANCELLED

    def wait_for(self, job_id: str, states: str | Iterable[str], timeout: float = 60) -> str:
        """Return the state once all tasks of the job have one of `states`. Fail after `timeout` seconds."""
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
        """kill -9 the node's slurmd. Its jobs continue, unless `with_jobs` kills them too."""
        done = call_script("kill-node", name, *(["--with-jobs"] if with_jobs else []))
        assert done.returncode == 0, done.stderr

    def kill_controller(self) -> None:
        """kill -9 slurmctld. Jobs continue."""
        done = call_script("kill-controller")
        assert done.returncode == 0, done.stderr

    def start_controller(self) -> None:
        """Start slurmctld and return when it answers."""
        done = call_script("start-controller")
        assert done.returncode == 0, done.stderr

    def start_node(self, name: str) -> None:
        """Start the node's slurmd and return when it accepts jobs."""
        done = call_script("start-node", name)
        assert done.returncode == 0, done.stderr
