"""Signals: SIGTERM, SIGINT and SIGUSR2 end a run after a checkpoint.

SIGUSR1 asks for a checkpoint, and the run continues. A cluster sends SIGUSR2 before it takes
the machine away. The job is then queued again (scripts/launchers/slurm.py).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from tasks.engine.errors import Interrupted

_noted: int | None = None  # a stop requested while no block below was active


def note(number: int, _: FrameType | None) -> None:
    """Remember a signal that comes between two runs, for the next block below."""
    global _noted
    _noted = number


class Requests:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        self.stop: int | None = _noted
        self.checkpoint = False

    def handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.checkpoint = True
        else:
            self.stop = number


@contextlib.contextmanager
def listening() -> Iterator[Requests]:
    """Collect signals while the block runs. Outside the main thread Python allows no handlers, so none arrive."""
    requests = Requests()
    with _handled_by(requests.handle):
        yield requests


@contextlib.contextmanager
def stopping_at_once(what: str) -> Iterator[None]:
    """Raise Interrupted at once for a signal that ends a run, as the block has nothing to save. Ignore SIGUSR1."""

    def stop(number: int, _: FrameType | None) -> None:
        if number != signal.SIGUSR1:
            raise Interrupted(number, f"{what} stopped before its first step; the same command goes on from there")

    with _handled_by(stop):
        if _noted is not None:
            stop(_noted, None)
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            handler(number, frame)
        # This is a fork, such as a worker of a library's pool, which uses SIGTERM to end its
        # workers.
        elif number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    old = {
        number: signal.signal(number, handle)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    }
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)
