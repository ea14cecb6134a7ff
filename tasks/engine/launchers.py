"""The keys of configs/launcher/*.yaml: where and how runs are started."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from tasks.engine.errors import UserError
from tasks.engine.section import List, Positive, PositiveInt, Section, read, shown_as

# hours or minutes first: 24:00:00 has three parts, 90:30 two, 90 one. With days the first part is hours.
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)


def minutes(time: int | float | str) -> int:
    """Return a time limit in whole minutes, rounded up.

    Args:
        time: a number of minutes, or Slurm's minutes:seconds, hours:minutes:seconds or days-hours:...

    Raises:
        ValueError: anything else, and no time at all.
    """
    if isinstance(time, int | float) and not isinstance(time, bool):
        exact = float(time)
    elif found := _TIME.fullmatch(str(time)):
        days, *parts = (int(part or 0) for part in found.groups())
        if found[1] is None and found[4] is None:  # minutes and seconds
            parts = [0, *parts[:2]]
        exact = 1440 * days + 60 * parts[0] + parts[1] + parts[2] / 60
    else:
        exact = math.nan
    if not 0 < exact < 2**31:  # Slurm counts minutes in 32 bits
        raise ValueError("must be minutes, or like 12:00:00 or 1-12:00:00")
    return math.ceil(exact)


def _is_time(value: Any) -> Any:
    minutes(value)
    return value


def kind_and_count(gpus: int | str) -> tuple[str, int]:
    """Return the kind of GPU and its number: ("a100", 4) for a100:4, and ("", 4) for 4. Raise ValueError otherwise."""
    found = re.fullmatch(r"(?:([\w.-]+):)?(\d+)", str(gpus), re.ASCII)
    if found is None or isinstance(gpus, bool):
        raise ValueError("must be null, a number of GPUs per node, or a kind and a number, like a100:4")
    return found[1] or "", int(found[2])


def _is_gpus(value: Any) -> Any:
    if value is not None:
        kind_and_count(value)
    return value


# Options of sbatch that follow from other keys or that the suite needs for itself.
_OTHERWISE_SET = {
    "array": "launcher.parallel",
    "cpus_per_task": "launcher.cpus",
    "gpus_per_node": "launcher.gpus",
    "mem": "launcher.memory",
    "nodes": "nodes",
    "ntasks": "gpus",
    "ntasks_per_node": "gpus",
    "signal": "launcher.grace_seconds",
    "time": "launcher.time",
} | dict.fromkeys(("chdir", "error", "export", "job_name", "open_mode", "output", "requeue", "no_requeue", "wrap"))


def option_name(key: str) -> str:
    """Return an option of sbatch as submitit writes it: mem_per_gpu for --mem-per-gpu."""
    return key.lstrip("-").replace("-", "_")


def _are_options(value: Any) -> Any:
    for key in value if isinstance(value, dict) else ():
        if (name := option_name(str(key))) in _OTHERWISE_SET:
            instead = _OTHERWISE_SET[name]
            raise ValueError(f"has {key}, which {f'{instead}= sets' if instead else 'the suite sets itself'}")
    return value


def _are_variables(value: Any) -> Any:
    for name in value if isinstance(value, dict) else ():
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            raise ValueError(f"has {name}, which is no name of an environment variable")
    return value


Name = str | int | List[str | int] | None  # a list is joined by commas
Value = str | int | float | bool | None


class LocalLauncher(Section):
    name: Literal["local"]


class SlurmLauncher(Section):
    name: Literal["slurm"]
    partition: Name
    account: Name
    qos: Name
    constraint: Name
    reservation: Name
    nodelist: Name
    exclude: Name
    gres: Name
    dependency: Name
    comment: Name
    mail_type: Name
    mail_user: Name
    sbatch: Annotated[dict[str, Value | List[str | int]], BeforeValidator(_are_options)]
    srun: List[str]
    setup: List[str]
    env: Annotated[dict[str, Value], BeforeValidator(_are_variables)]
    container: str | None
    python: str | None
    scratch: str | None
    stage: List[str]
    prepare: Literal["here", "job"]
    prepare_partition: Name
    time: Annotated[str | int | float, BeforeValidator(_is_time)]
    grace_seconds: PositiveInt
    gpus: Annotated[int | str | None, BeforeValidator(_is_gpus)]
    cpus: PositiveInt
    memory: Positive | None
    parallel: PositiveInt
    max_array_size: PositiveInt | None
    runs_per_job: PositiveInt
    runs_at_a_time: PositiveInt


Launcher = LocalLauncher | SlurmLauncher


def read_launcher(content: Any) -> Launcher:
    """Return `cfg.launcher`, or raise UserError: an unknown launcher or key, or a value out of range."""
    name = content.get("name") if isinstance(content, dict) else content
    if name == "slurm":
        return read(SlurmLauncher, content, "launcher")
    if name != "local":
        raise UserError(f"launcher.name={shown_as(name)} is unknown; choose one of local, slurm")
    return read(LocalLauncher, content, "launcher")
