"""Shared by the commands: compose configurations, ask for confirmation, and report errors in one line."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scripts.cli import early
from scripts.cli.overrides import as_hydra_takes_them, check_added, explain
from scripts.cli.parser import CONFIG_DIR, ROOT, Request
from tasks.engine.config import read_config
from tasks.engine.errors import Interrupted, OutOfMemory, TrainingFailed, UserError, one_line
from tasks.engine.launch import launched


def compose_config(overrides: list[str]) -> DictConfig:
    """Return configs/config.yaml with Hydra overrides, as train.py sees it.

    Raises:
        UserError: A key or a choice is unknown.
    """
    check_added(overrides, str(CONFIG_DIR))
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("config", as_hydra_takes_them(overrides))
    except HydraException as error:
        raise UserError(explain(error, overrides, str(CONFIG_DIR))) from error
    except yaml.YAMLError as error:
        raise UserError(f"a configuration is not valid YAML: {one_line(error)}") from error


def runs_dir_of(request: Request) -> Path:
    """Return the folder of `runs_dir=`, read as train.py reads it.

    Raises:
        UserError: It is no name of a folder.
    """
    return Path(read_config(compose_config([f"runs_dir={request.options['runs_dir']}"])).runs_dir)


def confirmed(question: str, yes: bool) -> bool:
    """Return whether the user agrees, at the terminal or with --yes.

    Raises:
        UserError: There is no terminal to ask at.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to ask at: add --yes")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _check_clone() -> None:
    """Raise UserError if Python imports the suite from another clone than the command's own."""
    command = Path(sys.argv[0]).resolve()
    clone = next((folder.parent for folder in command.parents if folder.name == "scripts"), ROOT)
    if clone != ROOT and (clone / "configs").is_dir():
        raise UserError(
            f"{command} would run the code of {ROOT}, which this Python imports; "
            f"use the .venv of {clone} (make setup), or python -m scripts.{command.stem} in that folder"
        )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn every expected error into one line on standard error and its exit code."""
    early.imported()
    try:
        _check_clone()
        yield
    except (UserError, TrainingFailed, Interrupted) as error:
        fail(str(error), error.exit_code)
    except OutOfMemory as error:  # other processes may not have it
        fail(str(error), error.exit_code, alike=False)
    except HydraException as error:
        fail(explain(error, sys.argv[1:], str(CONFIG_DIR)), UserError.exit_code)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        fail(str(error), UserError.exit_code)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}", UserError.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", 128 + signal.SIGINT)


def fail(message: str, exit_code: int, alike: bool = True) -> None:
    """End the program with one line.
    With `alike`, all processes of a run fail with the same message and only the first one prints
    it.
    """
    if launched().rank == 0 or not alike:
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)
