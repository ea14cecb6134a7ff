"""Parse the command lines of reproduce.py, status.py, retry.py and prune.py: ARTEFACT... key=value... [--flag]"""

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass

from scripts.sweep.local import gpus_here
from tasks.engine.errors import UserError

OPTIONS = ("scale", "seeds", "jobs", "results_dir", "wait")


@dataclass(frozen=True)
class Request:
    """A parsed command line.
    given: every key=value.
    options: those that are keys of reproduce.py.
    overrides: those that are keys of train.py.
    flags: the flags, without their dashes.
    """

    names: list[str]
    given: dict[str, str]
    options: dict[str, str]
    overrides: dict[str, str]
    flags: set[str]


def read_arguments(arguments: list[str], flags: Collection[str] = ()) -> Request:
    """Sort the arguments. Whatever is neither a key nor a flag is a name.
    Raises UserError for a flag that is not in `flags` and for invalid keys or values.
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
    """Return the number of runs at a time: as asked, else one per GPU, or one per core that this process may use.
    Raises UserError for an invalid number.
    """
    if "jobs" not in options:
        return len(gpus_here()) if device.startswith("cuda") else len(os.sched_getaffinity(0))
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise UserError(f"jobs={options['jobs']} must be a whole number >= 1")
    return int(options["jobs"])


def confirmed(question: str, request: Request) -> bool:
    """Return whether the user agrees, with --yes or at the terminal.
    Raises UserError if there is no terminal to ask at.
    """
    if "yes" in request.flags:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to ask at: say --yes")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
