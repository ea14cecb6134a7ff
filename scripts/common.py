"""What the command-line entries share: composing configurations and saying errors in one line."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scripts import early
from tasks.engine.errors import Interrupted, OutOfMemory, TrainingFailed, UserError
from tasks.engine.launch import launched

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "configs"


def compose_config(overrides: list[str]) -> DictConfig:
    """configs/config.yaml with Hydra overrides, as train.py sees it."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", overrides)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns every expected error into one line on the standard error stream and its exit code."""
    early.imported()
    try:
        yield
    except (UserError, TrainingFailed, Interrupted) as error:
        fail(str(error), error.exit_code)
    except OutOfMemory as error:  # of one process alone
        fail(str(error), error.exit_code, alike=False)
    except (HydraException, OmegaConfBaseException) as error:
        fail(str(error), UserError.exit_code)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}", UserError.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", 128 + signal.SIGINT)


def fail(message: str, exit_code: int, alike: bool = True) -> None:
    """Ends the program with one line. What all of a run's processes fail with `alike`, the first one says."""
    if launched().rank == 0 or not alike:
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)
