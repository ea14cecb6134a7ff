"""What a job asks Slurm for: submitit's parameters, made from the keys of configs/launcher/slurm.yaml."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.cli.parser import CONFIG_DIR, ROOT
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.launchers import SlurmLauncher, kind_and_count, minutes, option_name

NAMED = (
    *("partition", "account", "qos", "constraint", "reservation", "nodelist"),
    *("exclude", "gres", "dependency", "comment", "mail_type", "mail_user"),
)
# The batch script queues the job again after these exit codes: a killed process, and an interrupted run.
# Slurm itself does so for neither. (scancel ends one with SIGTERM.) scontrol may be missing in a container,
# but not here. A job of an array is named by its id within the array, because its own number may also be
# that of the array.
AGAIN = (128 + signal.SIGKILL, 128 + signal.SIGUSR2)
THIS_JOB = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
REQUEUE = f"job={THIS_JOB}; trap 'case $? in {'|'.join(map(str, AGAIN))}) scontrol requeue ${{job:-$SLURM_JOB_ID}};; esac' EXIT"
SMALLEST_DEFAULT = 1000  # Slurm's default MaxArraySize is 1001


def parameters(cfg: Config, name: str, parallel: int = 1, after: str | None = None) -> dict[str, Any]:
    """Return submitit's parameters of an array of jobs.

    Args:
        cfg: one of its runs.
        name: of the jobs.
        parallel: jobs at a time.
        after: a job that must succeed before them.
    """
    launcher = cfg.launcher
    assert isinstance(launcher, SlurmLauncher)
    options = {key: getattr(launcher, key) for key in NAMED} | {
        option_name(key): value for key, value in launcher.sbatch.items()
    }
    given = {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in options.items()}
    if after is not None:
        given["dependency"] = ",".join(filter(None, [f"afterok:{after}", given["dependency"]]))
        given.setdefault("kill_on_invalid_dep", "yes")
    return {
        "job_name": name,
        "time": minutes(launcher.time),
        "cpus_per_task": launcher.cpus,
        "mem": None if launcher.memory is None else f"{int(1024 * launcher.memory)}MB",
        "nodes": cfg.nodes,
        "ntasks_per_node": cfg.gpus,  # one process per GPU
        "gpus_per_node": _gpus(cfg, launcher, str(given.get("gres"))),
        "signal_delay_s": launcher.grace_seconds,
        "array_parallelism": parallel,
        "stderr_to_stdout": True,
        "wckey": None,
        "setup": [REQUEUE, *_setup(launcher)],
        "srun_args": [f"--cpus-per-task={launcher.cpus}", *launcher.srun],  # srun doesn't take it from sbatch
        "additional_parameters": {key: value for key, value in given.items() if value not in (None, False)}
        | {"requeue": True, "chdir": str(ROOT)},
    }


def on_cpus(parameters: dict[str, Any], partition: str | None) -> dict[str, Any]:
    """Return the parameters of a job of one task without GPUs, in another partition if one is given."""
    others = {key: value for key, value in parameters["additional_parameters"].items() if key != "gres"}
    others |= {"dependency": "singleton"} | ({"partition": partition} if partition else {})
    alone = {"nodes": 1, "ntasks_per_node": 1, "gpus_per_node": None, "additional_parameters": others}
    return parameters | alone


def _gpus(cfg: Config, launcher: SlurmLauncher, gres: str) -> str | int | None:
    """Return the GPUs of a node, or None if none or those of `gres` are asked for."""
    kind, count = ("", int(cfg.device.startswith("cuda"))) if launcher.gpus is None else kind_and_count(launcher.gpus)
    if not count or re.search(r"\bgpu\b", gres):
        return None
    count = max(count, cfg.gpus)
    return f"{kind}:{count}" if kind else count


def _setup(launcher: SlurmLauncher) -> list[str]:
    """Return the lines before srun. The job ends at the first line that fails."""
    lines = []
    for line in launcher.setup:
        failed = shlex.quote(f"error: this line of launcher.setup failed: {line}")
        lines += [line, f"[ $? = 0 ] || {{ echo {failed}; exit 1; }}"]
    values = {key: value for key, value in launcher.env.items() if value is not None}
    return [*lines, *(f"export {key}={shlex.quote(_text(value))}" for key, value in values.items())]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def python_of(launcher: SlurmLauncher) -> str:
    """Return the command that starts Python in a job."""
    python = launcher.python or shlex.quote(sys.executable)
    return f"{launcher.container} {python}" if launcher.container else python


def largest_array(launcher: SlurmLauncher) -> int:
    """Return how many jobs an array may have, by the key or by the cluster's configuration."""
    if launcher.max_array_size is not None:
        return launcher.max_array_size
    if shutil.which("scontrol") is not None:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60)
        if found := re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE):
            return max(1, int(found[1]))
    return SMALLEST_DEFAULT


def check(cfg: Config) -> None:
    """Raise UserError for settings of the launcher that do not fit each other."""
    launcher = cfg.launcher
    assert isinstance(launcher, SlurmLauncher)
    check_times_in_files(CONFIG_DIR / "launcher")
    if launcher.grace_seconds > 30 * minutes(launcher.time):
        raise UserError(
            f"launcher.grace_seconds={launcher.grace_seconds} must be at most half of launcher.time={launcher.time} minutes, "
            "so that a job can train before it writes its checkpoint"
        )
    if bool(launcher.scratch) != bool(launcher.stage):
        raise UserError(
            "launcher.scratch= is the disk and launcher.stage=[...] the folders of data_dir; set both or neither"
        )
    if launcher.runs_at_a_time > 1 and cfg.nodes * cfg.gpus > 1:
        raise UserError(
            f"launcher.runs_at_a_time={launcher.runs_at_a_time} must be 1 for runs of several processes "
            f"(nodes={cfg.nodes}, gpus={cfg.gpus}); they run one after the other"
        )


def check_times_in_files(folder: Path) -> None:
    """Raise UserError for `time: 24:00:00` without quotes, which YAML reads as 86400."""
    for path in sorted(folder.glob("*.yaml")):
        if found := re.search(r"^\s+time:\s*([\d]+(?::\d+)+)\s*(?:#|$)", path.read_text(), re.MULTILINE):
            raise UserError(
                f'{path}: time: {found[1]} is a number of seconds in YAML; write it in quotes, time: "{found[1]}"'
            )
