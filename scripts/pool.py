"""Many runs on this machine: parallel processes of one thread each, one bar over all their steps, signals passed on."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from tasks.engine.errors import Interrupted, TrainingFailed
from tasks.engine.signals import listening
from tasks.engine.terminal import say

_steps_done: Any = None  # in a worker: the counter of steps that it shares with the parent


def run_all(configs: list[DictConfig], jobs: int, title: str) -> None:
    """Trains every configuration; a diverged run is said and on record, and no reason to stop.

    Raises Interrupted after SIGTERM or SIGINT, TrainingFailed if a worker was killed, and what a run raised that cannot be started;
    the runs in progress have then written a checkpoint.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    workers = min(jobs, len(configs))
    interval = 0.5 if sys.stderr.isatty() else 30.0
    total = sum(cfg.num_steps for cfg in configs)
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(counter,)) as pool,
        tqdm(total=total, unit="step", desc=title, mininterval=interval, dynamic_ncols=True) as bar,
        listening() as requests,
    ):
        waiting, ended = iter(configs), 0
        # No more than one run a worker: what the pool has been given cannot be taken back.
        running = {pool.submit(_work, cfg) for cfg in itertools.islice(waiting, workers)}
        try:
            while running:
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                if requests.checkpoint:
                    requests.checkpoint = False
                    _signal_workers(signal.SIGUSR1)
                if requests.stop:
                    message = f"{title} stopped with {ended} of {len(configs)} runs done; the same command goes on from there"
                    raise Interrupted(requests.stop, message)
                for future in done:
                    if failure := future.result():
                        say(failure)
                    ended += 1
                running |= {pool.submit(_work, cfg) for cfg in itertools.islice(waiting, len(done))}
                bar.set_postfix_str(f"{ended} of {len(configs)} runs", refresh=False)
                bar.update(counter.value - bar.n)
        except BrokenProcessPool:
            raise TrainingFailed(
                f"{title}: a worker process was killed (out of memory?); the same command goes on; jobs= sets how many run at a time"
            ) from None
        except BaseException:
            _signal_workers(signal.SIGTERM)
            raise


def _signal_workers(number: int) -> None:
    for process in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)  # type: ignore[arg-type]


def _start_worker(counter: Any) -> None:
    global _steps_done
    _steps_done = counter
    tqdm.set_lock(threading.RLock())  # its default lock is a semaphore, which a killed process would leave behind
    # Ctrl-C reaches the whole process group; it is the parent's to tell the workers, and SIGUSR1 may come between two runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends this worker, with a checkpoint, if its parent was killed: the same command must find no run still held."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _work(cfg: DictConfig) -> str | None:
    """One run in a worker; returns what went wrong with its training, if anything did."""
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
    except TrainingFailed as error:
        failure = str(error)
    finally:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # nobody waits for the result, and the pool's queue would block this process for ever
    count(cfg.num_steps - counted)
    return failure
