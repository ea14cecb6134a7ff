"""Many runs on this machine: parallel processes of one thread each, one bar over all their steps, signals passed on."""

import contextlib
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
from tasks.engine.signals import Requests, listening

_steps_done: Any = None  # in a worker: the counter of steps that it shares with the parent


def say(message: str) -> None:
    """One line to the standard error stream, without tearing the bar; the engine's own needs torch."""
    tqdm.write(message, file=sys.stderr)


def run_all(configs: list[DictConfig], jobs: int, title: str) -> None:
    """Trains every configuration; a diverged run is said and on record, and no reason to stop.

    Raises Interrupted after SIGTERM or SIGINT (every run has written a checkpoint) and TrainingFailed if a worker was killed.
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
        pending, ended = {pool.submit(_work, cfg) for cfg in configs}, 0
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                _pass_on(requests, title, ended, len(configs))
                for future in done:
                    ended += 1
                    if message := future.result():
                        say(message)
                bar.set_postfix_str(f"{ended} of {len(configs)} runs", refresh=False)
                bar.update(counter.value - bar.n)
        except BrokenProcessPool:
            raise TrainingFailed(
                f"{title}: a worker process was killed (out of memory?); the same command goes on; jobs= sets how many run at a time"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pass_on(requests: Requests, title: str, ended: int, runs: int) -> None:
    """Sends the workers what this process was asked to do, and stops if it was asked to."""
    if requests.checkpoint:
        requests.checkpoint = False
        _signal_workers(signal.SIGUSR1)
    if requests.stop:
        _signal_workers(signal.SIGTERM)
        message = f"{title} stopped with {ended} of {runs} runs done; the same command goes on from there"
        raise Interrupted(requests.stop, message)


def _signal_workers(number: int) -> None:
    for process in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)  # type: ignore[arg-type]


def _start_worker(counter: Any) -> None:
    global _steps_done
    _steps_done = counter
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

    try:
        run(cfg, progress=count)
    except TrainingFailed as failure:
        return str(failure)
    finally:
        count(cfg.num_steps - counted)
    return None
