"""Signals: SIGTERM, SIGINT and SIGUSR2 end a run after a checkpoint, SIGUSR1 asks for a checkpoint and lets it go on.

SIGUSR2 is what a cluster sends before it takes the machine away: the job is queued again (scripts/launchers/slurm.py).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from tasks.engine.errors import Interrupted

_noted: int | None = None  # a stop that was asked for while no block below was active


def note(number: int, _: FrameType | None) -> None:
    """Handle a signal between two runs: the next block below honours it."""
    global _noted
    _noted = number


class Requests:
    """What has been asked for since the last look."""

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
    """Collects signals while the block runs; outside the main thread, where Python allows no handlers, none come."""
    requests = Requests()
    with _handled_by(requests.handle):
        yield requests


@contextlib.contextmanager
def stopping_at_once(what: str) -> Iterator[None]:
    """Raise Interrupted at once for a signal that ends a run, while the block has nothing to save. SIGUSR1 is ignored."""

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
        elif number == signal.SIGTERM:  # a fork, such as a worker of a library's pool, which ends its workers so
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
