"""Handle signals that arrive while a command imports its libraries.
A command calls `importing` before its other imports.
"""

import os
import signal
from types import FrameType

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_importing = False


def importing() -> None:
    """From now on, let a signal that ends a run end the process in one line.
    SIGUSR1 is ignored, because there is nothing to save yet.
    """
    global _importing
    _importing = True
    for number in ENDS:
        signal.signal(number, _end)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def imported() -> None:
    """Restore Python's own handling of these signals."""
    global _importing
    if _importing:
        _importing = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in ENDS[1:]:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> None:
    os.write(2, b"error: interrupted before anything was begun\n")
    os._exit(128 + number)
