"""The keys of configs/launcher/*.yaml: where and how runs are started."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from tasks.engine.errors import UserError
from tasks.engine.section import NonNegativeInt, Positive, PositiveInt, Section, read, shown_as


def minutes(time: int | float | str) -> float:
    """Return a time limit in minutes.

    Args:
        time: a number of minutes, or Slurm's minutes:seconds, hours:minutes:seconds or days-hours:...

    Raises:
        ValueError: anything else.
    """
    if isinstance(time, int | float) and not isinstance(time, bool):
        if not 0 < time < math.inf:
            raise ValueError
        return float(time)
    days, dash, rest = str(time).rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if len(parts) > 3 or min(parts) < 0:
        raise ValueError
    if dash:
        hours, minutes, seconds, *_ = [*parts, 0, 0]
        return 1440 * int(days) + 60 * hours + minutes + seconds / 60
    if len(parts) == 3:
        return 60 * parts[0] + parts[1] + parts[2] / 60
    return parts[0] + (parts[1] / 60 if len(parts) == 2 else 0)


def _is_time(value: Any) -> Any:
    try:
        if minutes(value) > 0:
            return value
    except ValueError:
        pass
    raise ValueError("must be minutes, or like 12:00:00 or 1-12:00:00")


class LocalLauncher(Section):
    name: Literal["local"]
    gpus: NonNegativeInt = 0


class SlurmLauncher(Section):
    name: Literal["slurm"]
    partition: str | int | None
    account: str | int | None
    qos: str | int | None
    constraint: str | int | None
    time: Annotated[str | int | float, BeforeValidator(_is_time)]
    grace_seconds: PositiveInt
    gpus: NonNegativeInt
    cpus: PositiveInt
    memory: Positive
    parallel: PositiveInt
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
