"""Train many runs on this machine in parallel processes.
Each process on a GPU has a GPU of its own. Signals are passed on to the workers.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from scripts.sweep.progress import Progress
from tasks.engine import attempts, records, signals, terminal
from tasks.engine.errors import Held, Interrupted, OutOfMemory, TrainingFailed, Unusable, UserError, one_line
from tasks.engine.files import is_held
from tasks.engine.signals import Requests, listening
from tasks.engine.terminal import say

# What the parent sends its workers. SIGTERM would kill a worker that waits for a run while it holds
# the lock of the pool's queue. The others would wait for that lock forever, and the parent for them.
# The pool itself sends SIGTERM when it is broken.
STOP = signal.SIGUSR2
_steps_done: Any = None  # in a worker: the step counter shared with the parent


def run_all(configs: list[DictConfig], jobs: int, title: str, progress: Progress | None = None) -> None:
    """Train every configuration. A failed run is reported, and the others continue (tasks/engine/errors.py).
    A worker that is killed or runs out of memory is replaced. `tasks.engine.attempts` makes sure
    that no run is retried forever. A run that another process trains is left to it and checked
    again at the end. `progress` may cover more runs than these. Without it, they have a bar of their own.

    Raises:
        Interrupted: after SIGTERM, SIGINT or SIGUSR2. The runs in progress have written a checkpoint.
        Held: other processes still train some of the runs.
        UserError: the files of some runs are unusable, or an error ends the sweep. In the second case
            the runs in progress have written a checkpoint.
        TrainingFailed: workers are killed before they train.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    with (
        listening() as requests,  # also catches signals between two pools
        terminal.shown_once() as told,
        contextlib.ExitStack() as opened,
    ):
        bar = progress or opened.enter_context(Progress(title, configs, lambda cfg: cfg.num_steps))
        sweep = _Sweep(title, len(configs), requests, bar, told)
        left, breaks = configs, 0
        while left:
            try:
                _run_in_a_pool(left, jobs, sweep)
            except BrokenProcessPool:
                sweep.stop_if_asked()
                breaks += 1
                if breaks > attempts.LIMIT * len(configs):
                    raise TrainingFailed(
                        f"{title}: workers are killed before they train (out of memory?); set fewer jobs=, for example jobs=1"
                    ) from None
                say(f"{title}: a worker process was killed (out of memory?); its run resumes from the last checkpoint")
            left = [cfg for cfg in configs if sweep.is_left(cfg)]
            sweep.ended = sum(map(records.has_record, configs))  # a broken pool doesn't tell of its last runs
        held = [
            run_id for run_id in map(records.run_id, configs) if run_id in sweep.held and run_id not in sweep.unusable
        ]
    say_unusable(title, list(sweep.unusable.values()), len(configs))
    if held:
        raise Held(
            f"{title}: {len(held)} of {len(configs)} runs are being trained by other processes, such as {held[0]}; "
            "run the same command again when they are done"
        )


def say_unusable(title: str, reasons: list[str], count: int) -> None:
    """Raise UserError at the end of a sweep of `count` runs if some could not be trained for these reasons."""
    if reasons:
        raise UserError(
            f"{title}: {len(reasons)} of {count} runs cannot be trained, the others have ended: {reasons[0]}"
            + (f" (and {len(reasons) - 1} more: python scripts/status.py lists them)" if len(reasons) > 1 else "")
        )


@dataclass
class _Sweep:
    """The state of a sweep beyond the records of its runs."""

    title: str
    count: int
    requests: Requests
    progress: Progress
    told: Path  # the warnings that have been shown (tasks/engine/terminal.py)
    held: set[str] = field(default_factory=set)  # by other processes
    unusable: dict[str, str] = field(default_factory=dict)  # run id: why
    ended: int = 0

    def is_left(self, cfg: DictConfig) -> bool:
        """Return whether a run is still to be trained.
        That is, it has not ended, its files are usable, and no other process trains it.
        """
        run_id = records.run_id(cfg)
        if run_id in self.unusable:
            return False
        if records.has_record(cfg):
            self.held.discard(run_id)
            return False
        return run_id not in self.held or not is_held(records.run_folder(cfg, run_id))

    def stop_if_asked(self) -> None:
        """Raise Interrupted after a signal."""
        if self.requests.stop:
            raise Interrupted(
                self.requests.stop,
                f"{self.title} stopped with {self.ended} of {self.count} runs done; run the same command to resume",
            )

    def take(self, future: Future, cfg: DictConfig) -> None:
        """Handle the end of a run. Raises an error that ends the sweep."""
        try:
            failure = future.result()
        except Held:
            self.held.add(records.run_id(cfg))
            return
        except Unusable as error:
            failure = self.unusable[records.run_id(cfg)] = str(error)
        except UserError as error:
            raise type(error)(f"{records.run_id(cfg)}: {error}") from error
        if failure:
            say(failure)
        self.ended += records.has_record(cfg)  # else it is tried again, or unusable


def _run_in_a_pool(configs: list[DictConfig], jobs: int, sweep: _Sweep) -> None:
    """Train the configurations once."""
    context = multiprocessing.get_context("spawn")
    with _held_back():  # multiprocessing starts a helper process for these
        counter, devices = context.Value("q", 0), context.SimpleQueue()
    workers = min(jobs, len(configs))
    visible = gpus_here() if str(configs[0].device).startswith("cuda") else []
    for number in range(workers):
        devices.put(visible[number % len(visible)] if visible else None)
    sweep.progress.begin(configs)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(counter, devices, sweep.told)
    ) as pool:
        waiting = iter(configs)
        # Submit at most one run per worker, because submitted runs can't be withdrawn.
        with _held_back():
            running = {pool.submit(_work, cfg): cfg for cfg in itertools.islice(waiting, workers)}
        try:
            while running:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                if sweep.requests.checkpoint:
                    sweep.requests.checkpoint = False
                    _signal_workers(signal.SIGUSR1)
                sweep.stop_if_asked()
                for future in done:
                    sweep.take(future, running.pop(future))
                with _held_back():
                    running |= {pool.submit(_work, cfg): cfg for cfg in itertools.islice(waiting, len(done))}
                sweep.progress.update(counter.value, sweep.ended, sweep.count)
        except BaseException:
            _signal_workers(STOP)
            raise


# Signals that a terminal or a cluster sends to a whole process group. They would kill a worker that has
# not installed its handlers yet.
TO_THE_GROUP = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Delay these signals for processes started here until they have handlers (`_start_worker`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def gpus_here() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def jobs_of(options: dict[str, Any], device: str) -> int:
    """Return the number of runs at a time: jobs=, else one per GPU, or one per core that this process may use."""
    if "jobs" in options:
        return options["jobs"]
    return len(gpus_here()) if device.startswith("cuda") else len(os.sched_getaffinity(0))


def _signal_workers(number: int) -> None:
    for process in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)  # type: ignore[arg-type]


def _start_worker(counter: Any, devices: Any, told: Path) -> None:
    global _steps_done
    _steps_done = counter
    terminal.say_beside_a_bar()
    terminal.show_once(told)
    terminal.show_python_warnings()
    gpu = devices.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    tqdm.set_lock(threading.RLock())  # the default semaphore would outlive a killed process
    # Ctrl-C and a cluster's signals reach the whole process group, and may come between two runs. The
    # parent forwards them to the workers.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(STOP, signals.note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_THE_GROUP)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this worker, with a checkpoint, if its parent was killed.
    Otherwise the same command would find runs that are still held.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _unexpected(cfg: DictConfig, error: Exception) -> Unusable:
    """Report an unexpected error with its traceback, and note it beside the run."""
    folder = records.run_folder(cfg)
    said = f"{folder}: {type(error).__name__}: {one_line(error)}; its traceback is in the sweep's output"
    traceback.print_exception(error)
    records.note_unusable(folder, said)
    return Unusable(said)


def _work(cfg: DictConfig) -> str | None:
    """Train one run in a worker. Return what went wrong with its training, or None."""
    from tasks.engine.run import run

    counted = 0

    def count(steps: int) -> None:
        nonlocal counted
        counted += steps
        with _steps_done.get_lock():
            _steps_done.value += steps

    failure = None
    try:
        run(cfg, progress=count)
    except (TrainingFailed, OutOfMemory) as error:
        failure = str(error)
    except Interrupted as interruption:
        if interruption.args[0] == signal.SIGTERM:  # the pool is broken, so another run might never come
            os._exit(interruption.exit_code)
        raise
    except UserError:
        raise
    except Exception as error:  # a bug in the suite or a library; other runs may not have it
        raise _unexpected(cfg, error) from None
    finally:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # the parent is gone, and the pool's queue would block this process forever
    count(cfg.num_steps - counted)
    return failure
