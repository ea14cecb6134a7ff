"""Signals: SIGTERM, SIGINT and SIGUSR2 end a run after a checkpoint.

SIGUSR1 asks for a checkpoint, and the run continues. A cluster sends SIGUSR2 before it takes
the machine away. The job is then queued again (scripts/sweep/slurm.py).
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
            raise Interrupted(number, f"{what} stopped before its first step; run the same command to resume")

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

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    old = {number: signal.signal(number, handle) for number in numbers}
    _forks.ours += 1
    try:
        yield
    finally:
        _forks.ours -= 1
        for number, before in old.items():
            signal.signal(number, before)


class _Forks:
    """SIGTERM ends a fork of a process that has handlers of ours, as it ends any other process.

    A library's pool ends its workers by SIGTERM and then waits for them. Python forgets a signal that reaches a fork
    before Python has noticed that it is one. So the signal is held back until the fork has the default handler.
    """

    def __init__(self) -> None:
        self.ours = 0  # blocks that handle signals at the moment
        self._held = threading.local()
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        self._held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]) if self.ours else None

    def _in_parent(self) -> None:
        if self._held.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._held.mask)

    def _in_child(self) -> None:
        if self._held.mask is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._held.mask)


_forks = _Forks()
