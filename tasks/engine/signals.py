"""Signals: SIGTERM, SIGINT and SIGUSR2 end a run after a checkpoint, SIGUSR1 asks for a checkpoint and lets it go on.

SIGUSR2 is what a cluster sends before it takes the machine away: the job is queued again (scripts/launchers/slurm.py).
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Requests:
    """What has been asked for since the last look."""

    def __init__(self) -> None:
        self.stop: int | None = None
        self.checkpoint = False

    def handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.checkpoint = True
        else:
            self.stop = number


@contextlib.contextmanager
def listening() -> Iterator[Requests]:
    """Collects signals while the block runs; outside the main thread, where Python allows no handlers, none come."""
    requests = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    old = {number: signal.signal(number, requests.handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield requests
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
