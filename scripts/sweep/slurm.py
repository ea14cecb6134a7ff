"""Train runs as jobs of a Slurm cluster, through submitit.
Each job of an array trains some runs one after the other. A job that is about to lose its machine
(SIGUSR2: time limit, preemption) writes checkpoints and is queued again. The same job then resumes
at the exact step. A job with a killed process is queued again too, until tasks.engine.attempts
marks its run failed.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scripts.cli.parser import ROOT
from scripts.sweep import queue
from tasks.engine import records
from tasks.engine.config import read_config
from tasks.engine.errors import Held, Interrupted, TrainingFailed, Unusable, UserError
from tasks.engine.launch import launched
from tasks.engine.launchers import SlurmLauncher, minutes
from tasks.engine.signals import listening
from tasks.engine.terminal import say, shown_once

MOST_JOBS = 1000  # in one array; Slurm's default MaxArraySize is 1001
KILLED = 128 + signal.SIGKILL
# The id within an array, because a job's own number may also be that of the array.
THIS_JOB = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
# Runs in the batch script, because Slurm itself does not requeue a job with a killed process.
# (scancel ends one with SIGTERM.)
REQUEUE_IF_KILLED = f"job={THIS_JOB}; trap '[ $? -eq {KILLED} ] && scontrol requeue ${{job:-$SLURM_JOB_ID}}' EXIT"


@dataclass
class Work:
    """The work of one job. It is pickled at submission, so it holds plain values."""

    configs: list[dict[str, Any]]
    at_a_time: int
    title: str

    def __call__(self) -> None:
        """Train what has not ended yet."""
        try:
            # This replaces submitit's handler, which fails if a second signal follows at once.
            with listening() as requests:
                from scripts.sweep.local import run_all

                configs = [OmegaConf.create(config) for config in self.configs]
                if requests.stop:
                    raise Interrupted(requests.stop, f"{self.title} stopped before its training")
                if launched().world > 1:
                    run_as_one_of_several(configs)
                else:
                    run_all([cfg for cfg in configs if not records.has_record(cfg)], self.at_a_time, self.title)
        except Held as error:
            say(str(error))
        except UserError as error:
            say(str(error))
            sys.exit(error.exit_code)
        except Interrupted as interruption:
            say(str(interruption))
            queue_again_if_asked(interruption)
            sys.exit(interruption.exit_code)

    def checkpoint(self) -> Any:
        """Tell submitit what to do with a job that is interrupted while it starts."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_as_one_of_several(configs: list[DictConfig]) -> None:
    """Train runs with several processes each, as one of these processes.
    Report a failed or unusable run and continue with the others.
    """
    from tasks.engine.run import run

    with shown_once():
        for cfg in configs:
            try:
                run(cfg)
            except (TrainingFailed, Unusable) as failure:
                say(str(failure))


def queue_again_if_asked(interruption: Interrupted) -> None:
    """Queue this job again after SIGUSR2, once for all processes.
    After SIGTERM either Slurm does so itself, or the user wants the job to end.
    """
    env = os.environ
    if interruption.args[0] == signal.SIGUSR2 and "SLURM_JOB_ID" in env:
        if launched().rank == 0:
            in_array = "SLURM_ARRAY_JOB_ID" in env
            job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}" if in_array else env["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        time.sleep(60)  # wait for Slurm to end this process: an exit would count as a failure


def submit(configs: list[DictConfig], title: str) -> list[str]:
    """Submit the runs, `runs_per_job` to a job, and return the ids of the job arrays.
    Raises UserError if there is no Slurm or it refuses the jobs.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "launcher=slurm needs a Slurm cluster, and there is no sbatch here; set launcher=local, or log in to the cluster"
        )
    launcher = read_config(configs[0]).launcher
    assert isinstance(launcher, SlurmLauncher)
    if not 0 < launcher.grace_seconds <= 30 * minutes(launcher.time):
        raise UserError(
            f"launcher.grace_seconds={launcher.grace_seconds} must be at most half of launcher.time={launcher.time} minutes, "
            "so that a job can train before it writes its checkpoint"
        )
    runs_dir = Path(configs[0].runs_dir).resolve()
    for cfg in configs:  # absolute paths, because jobs start in the repository's folder
        cfg.runs_dir, cfg.data_dir = str(runs_dir), str(Path(cfg.data_dir).resolve())
    per_job = launcher.runs_per_job
    jobs = [configs[i : i + per_job] for i in range(0, len(configs), per_job)]
    arrays = [jobs[i : i + MOST_JOBS] for i in range(0, len(jobs), MOST_JOBS)]
    return [_submit_array(array, launcher, runs_dir, title) for array in arrays]


def _submit_array(jobs: list[list[DictConfig]], launcher: SlurmLauncher, runs_dir: Path, title: str) -> str:
    import submitit

    name = queue.note_submission(runs_dir, title, [[records.run_id(cfg) for cfg in job] for job in jobs])
    work = [Work([plain(cfg) for cfg in job], launcher.runs_at_a_time, title) for job in jobs]
    executor = submitit.SlurmExecutor(folder=runs_dir / "slurm" / "jobs", max_num_timeout=1000)
    executor.update_parameters(**_parameters(jobs[0][0], name))
    try:
        with executor.batch():
            submitted = [executor.submit(one) for one in work]
        return submitted[0].job_id.partition("_")[0]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"Slurm refuses the jobs: {str(error).strip().splitlines()[-1]}") from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, with every reference resolved."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def _parameters(cfg: DictConfig, name: str) -> dict[str, Any]:
    launcher = cfg.launcher
    named = {key: launcher[key] for key in ("partition", "account", "qos", "constraint") if launcher[key] is not None}
    return named | {
        "job_name": name,
        "time": launcher.time,
        "cpus_per_task": launcher.cpus,
        "mem": f"{int(1024 * launcher.memory)}MB",
        "nodes": cfg.nodes,
        "ntasks_per_node": cfg.gpus,  # one process per GPU
        "gpus_per_node": max(launcher.gpus, cfg.gpus) if launcher.gpus else None,
        "signal_delay_s": launcher.grace_seconds,
        "array_parallelism": launcher.parallel,
        "stderr_to_stdout": True,
        "setup": [REQUEUE_IF_KILLED],
        "additional_parameters": {"requeue": True, "chdir": str(ROOT)},
    }
