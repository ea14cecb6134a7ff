"""Messages on the terminal. Doesn't import torch."""

import sys

from tqdm import tqdm

from tasks.engine.launch import launched


def say(message: str) -> None:
    """Write one line to stderr without breaking a progress bar. Only the run's first process writes."""
    if launched().rank == 0:
        tqdm.write(message, file=sys.stderr)
