"""Train runs as jobs of a Slurm cluster, through submitit.
Each job of an array trains some runs one after the other. A job that is about to lose its machine
(SIGUSR2: time limit, preemption) writes checkpoints and is queued again. The same job then resumes
at the exact step. A job with a killed process is queued again too, until tasks.engine.attempts
marks its run failed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scripts.prepare_data import prepare_task, wanted
from scripts.sweep import queue, sbatch
from scripts.sweep.staging import staged
from tasks.engine import records
from tasks.engine.config import Config, read_config
from tasks.engine.errors import Held, Interrupted, TrainingFailed, Unusable, UserError
from tasks.engine.launch import launched
from tasks.engine.launchers import SlurmLauncher
from tasks.engine.signals import listening
from tasks.engine.terminal import say, shown_once

TOO_MANY = re.compile("limit|job array specification", re.IGNORECASE)  # in Slurm's words


class QueueFull(UserError):
    """Slurm accepts no more jobs now. Those that it has accepted are in the queue."""


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
                for cfg in configs:
                    if (launcher := cfg.launcher).get("scratch"):
                        cfg.data_dir = str(staged(Path(cfg.data_dir), launcher.scratch, launcher.stage))
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
            say(str(interruption))  # the batch script queues the job again after SIGUSR2
            sys.exit(interruption.exit_code)

    def checkpoint(self) -> Any:
        """Tell submitit what to do with a job that is interrupted while it starts."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class Preparation:
    """A job that prepares data sets: task, data set and data_dir of each."""

    wanted: list[tuple[str, str, str]]

    def __call__(self) -> None:
        """Prepare them. The jobs that depend on this one are cancelled if that fails."""
        try:
            for task, name, folder in self.wanted:
                prepare_task(task, [name], Path(folder))
        except UserError as error:
            say(f"error: {error}")
            sys.exit(error.exit_code)


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
    """Queue the job of a user's own batch script again after SIGUSR2, once for all processes of the run.
    After SIGTERM either Slurm does so itself, or the user wants the job to end.
    """
    env = os.environ
    if interruption.args[0] == signal.SIGUSR2 and "SLURM_JOB_ID" in env and shutil.which("scontrol"):
        if launched().rank == 0:
            in_array = "SLURM_ARRAY_JOB_ID" in env
            job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}" if in_array else env["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        time.sleep(60)  # wait for Slurm to end this process: an exit would count as a failure


def submit(configs: list[DictConfig], title: str) -> list[str]:
    """Submit the runs, `runs_per_job` to a job, and return the ids of the job arrays.
    An array that is too large for a limit of the cluster is submitted in halves.

    Raises:
        QueueFull: Slurm has accepted some jobs and refuses the others for a limit, or the queue is full.
        UserError: there is no Slurm, or it refuses the jobs for another reason.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "launcher=slurm needs a Slurm cluster, and there is no sbatch here; set launcher=local, or log in to the cluster"
        )
    config = read_config(configs[0])
    launcher = config.launcher
    assert isinstance(launcher, SlurmLauncher)
    sbatch.check(config)
    runs_dir = Path(configs[0].runs_dir).resolve()
    for cfg in configs:  # absolute paths, because jobs start in the repository's folder
        cfg.runs_dir, cfg.data_dir = str(runs_dir), str(Path(cfg.data_dir).resolve())
    jobs = _cut(configs, launcher.runs_per_job)
    arrays = _cut(jobs, sbatch.largest_array(launcher))
    after = _submit_preparation(configs, config, runs_dir) if launcher.prepare == "job" else None
    ids: list[str] = []
    accepted = 0
    while arrays:
        array = arrays.pop(0)
        share = max(1, launcher.parallel * len(array) // len(jobs))
        try:
            ids.append(_submit_array(array, config, runs_dir, title, share, after))
            accepted += len(array)
        except QueueFull as full:
            if len(array) == 1:
                raise _said(full, accepted, len(jobs), ids, launcher.runs_per_job) from full
            arrays = [*_cut(array, (len(array) + 1) // 2), *arrays]
    return ids


def _cut(items: list[Any], size: int) -> list[Any]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _said(full: QueueFull, accepted: int, count: int, ids: list[str], per_job: int) -> UserError:
    """Return the error for the user: what is queued, and how to need fewer jobs."""
    fewer = f"or put more runs into a job (launcher.runs_per_job={2 * per_job})"
    queued = len(queue.own_jobs())
    if not queued:  # waiting would not help
        return UserError(f"Slurm refuses the jobs: {full}; ask for less (launcher.time, gpus), or choose another qos")
    done = f"accepted {accepted} of {count} jobs ({', '.join(ids)})" if ids else f"accepted none of {count} jobs"
    return QueueFull(
        f"Slurm {done}, and {queued} jobs of yours are in its queue. It refuses more: {full}; "
        f"run the same command again when some have ended, {fewer}"
    )


def _submit_array(
    jobs: list[list[DictConfig]], cfg: Config, runs_dir: Path, title: str, parallel: int, after: str | None
) -> str:
    launcher = cfg.launcher
    assert isinstance(launcher, SlurmLauncher)
    name = queue.note_submission(runs_dir, title, [[records.run_id(cfg) for cfg in job] for job in jobs])
    work = [Work([plain(cfg) for cfg in job], launcher.runs_at_a_time, title) for job in jobs]
    try:
        return _submit(work, launcher, runs_dir, sbatch.parameters(cfg, name, parallel, after))
    except QueueFull:
        queue.forget_submission(runs_dir, name)
        raise


def _submit_preparation(configs: list[DictConfig], cfg: Config, runs_dir: Path) -> str:
    """Submit a job that prepares the data of the runs. Two such jobs run one after the other."""
    launcher = cfg.launcher
    assert isinstance(launcher, SlurmLauncher)
    partition = None if launcher.prepare_partition is None else str(launcher.prepare_partition)
    asked = sbatch.on_cpus(sbatch.parameters(cfg, f"{queue.PREFIX}prepare"), partition)
    return _submit([Preparation(wanted(configs))], launcher, runs_dir, asked)


def _submit(work: list[Any], launcher: SlurmLauncher, runs_dir: Path, parameters: dict[str, Any]) -> str:
    """Submit jobs as one array and return its id. Raises UserError or QueueFull if Slurm refuses them."""
    import submitit

    executor = submitit.SlurmExecutor(
        folder=runs_dir / "slurm" / "jobs", max_num_timeout=1000, python=sbatch.python_of(launcher)
    )
    executor.update_parameters(**parameters)
    try:
        with executor.batch():
            submitted = [executor.submit(one) for one in work]
        return submitted[0].job_id.partition("_")[0]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        refusal = _refusal(str(error))
        if TOO_MANY.search(refusal):
            raise QueueFull(refusal) from error
        raise UserError(f"Slurm refuses the jobs: {refusal}") from error


def _refusal(said: str) -> str:
    """Return the lines of sbatch that say why, as one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = [line for line in lines if line.startswith("sbatch: ") and "--help" not in line]
    return " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in why or lines[-1:])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, with every reference resolved."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
