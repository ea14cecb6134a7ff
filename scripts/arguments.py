"""ARTEFACT... key=value... [--flag]: what reproduce.py, status.py, retry.py and prune.py are asked for."""

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass

from scripts.launchers.local import gpus_here
from tasks.engine.errors import UserError

OPTIONS = ("scale", "seeds", "jobs", "results_dir", "wait")


@dataclass(frozen=True)
class Request:
    """given is every key=value: options are the keys of reproduce.py, overrides those of train.py; flags are without their dashes."""

    names: list[str]
    given: dict[str, str]
    options: dict[str, str]
    overrides: dict[str, str]
    flags: set[str]


def read_arguments(arguments: list[str], flags: Collection[str] = ()) -> Request:
    """Sorts the arguments; what is no key and no flag is a name.

    Raises UserError for a flag that is not among `flags` and for keys or values that cannot be.
    """
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    dashed = {argument.removeprefix("--") for argument in arguments if argument.startswith("-") and "=" not in argument}
    if unknown := dashed - set(flags):
        known = " and ".join(f"--{flag}" for flag in flags) or "none"
        raise UserError(f"--{min(unknown).lstrip('-')} is unknown; this command takes key=value, and of flags {known}")
    options = {"scale": "mini", "wait": "false"} | {key: value for key, value in given.items() if key in OPTIONS}
    overrides = {key: value for key, value in given.items() if key not in OPTIONS}
    if fixed := {"task", "regularizer", "seed"} & set(overrides):
        raise UserError(f"{', '.join(sorted(fixed))}= is the artefact's to choose; seeds=1,2 chooses seeds")
    if options["wait"] not in ("true", "false"):
        raise UserError(f"wait={options['wait']} must be true or false")
    jobs_of(options, "cpu")
    names = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    return Request(names, given, options, overrides, dashed)


def jobs_of(options: dict[str, str], device: str) -> int:
    """How many runs at a time: as asked; else one a GPU, and on the CPU one a core that this process may use.

    Raises UserError for a number that is none.
    """
    if "jobs" not in options:
        return len(gpus_here()) if device.startswith("cuda") else len(os.sched_getaffinity(0))
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise UserError(f"jobs={options['jobs']} must be a whole number >= 1")
    return int(options["jobs"])


def confirmed(question: str, request: Request) -> bool:
    """Whether the user agrees: with --yes, or asked at the terminal.

    Raises UserError where there is no terminal to ask at.
    """
    if "yes" in request.flags:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to ask at: say --yes")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
