"""Lines for a person; free of torch."""

import sys

from tqdm import tqdm


def say(message: str) -> None:
    """One line to the standard error stream, without tearing a progress bar."""
    tqdm.write(message, file=sys.stderr)
