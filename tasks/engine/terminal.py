"""Lines for a person; free of torch."""

import sys

from tqdm import tqdm

from tasks.engine.launch import launched


def say(message: str) -> None:
    """One line to the standard error stream, without tearing a progress bar; from the first of a run's processes alone."""
    if launched().rank == 0:
        tqdm.write(message, file=sys.stderr)
