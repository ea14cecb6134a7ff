"""Many runs on this machine: parallel processes, on GPUs one each, one bar over all their steps, signals passed on."""

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

from tasks.engine import attempts, records
from tasks.engine.errors import Held, Interrupted, OutOfMemory, TrainingFailed
from tasks.engine.signals import listening
from tasks.engine.terminal import say

_steps_done: Any = None  # in a worker: the counter of steps that it shares with the parent


def run_all(configs: list[DictConfig], jobs: int, title: str) -> None:
    """Trains every configuration; a run that failed is said, and no reason to stop. What another process is at work on is left to it.

    A worker that is killed, or runs out of memory, is replaced; `tasks.engine.attempts` sees to it that no run is tried for ever.

    Raises Interrupted after SIGTERM, SIGINT or SIGUSR2, Held if runs are left that other processes train, TrainingFailed if workers are
    killed before they train, and what a run raised that cannot be started; the runs in progress have then written a checkpoint.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    held: list[str] = []
    left, breaks = configs, 0
    while left:
        try:
            _run_in_a_pool(left, jobs, title, held)
        except BrokenProcessPool:
            breaks += 1
            if breaks > attempts.LIMIT * len(configs):
                raise TrainingFailed(f"{title}: workers are killed before they train (out of memory?); try fewer: jobs=1") from None
            say(f"{title}: a worker process was killed (out of memory?); going on from its run's last checkpoint")
        left = [cfg for cfg in left if records.run_id(cfg) not in held and not records.has_record(cfg)]
    if held:
        raise Held(f"{title}: {len(held)} runs are being trained by other processes, {held[0]} for one; start again when they are done")


def _run_in_a_pool(configs: list[DictConfig], jobs: int, title: str, held: list[str]) -> None:
    """Trains the configurations once; adds the runs that other processes train to `held`."""
    context = multiprocessing.get_context("spawn")
    counter, devices = context.Value("q", 0), context.SimpleQueue()
    workers = min(jobs, len(configs))
    visible = gpus_here() if str(configs[0].device).startswith("cuda") else []
    for number in range(workers):
        devices.put(visible[number % len(visible)] if visible else None)
    interval = 0.5 if sys.stderr.isatty() else 30.0
    total = sum(cfg.num_steps for cfg in configs)
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(counter, devices)) as pool,
        tqdm(total=total, unit="step", desc=title, mininterval=interval, dynamic_ncols=True) as bar,
        listening() as requests,
    ):
        waiting, ended = iter(configs), 0
        # No more than one run a worker: what the pool has been given cannot be taken back.
        running = {pool.submit(_work, cfg): cfg for cfg in itertools.islice(waiting, workers)}
        try:
            while running:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                if requests.checkpoint:
                    requests.checkpoint = False
                    _signal_workers(signal.SIGUSR1)
                if requests.stop:
                    message = f"{title} stopped with {ended} of {len(configs)} runs done; the same command goes on from there"
                    raise Interrupted(requests.stop, message)
                for future in done:
                    cfg = running.pop(future)
                    try:
                        failure = future.result()
                    except Held:
                        failure = None
                        held.append(records.run_id(cfg))
                    if failure:
                        say(failure)
                    ended += 1
                running |= {pool.submit(_work, cfg): cfg for cfg in itertools.islice(waiting, len(done))}
                bar.set_postfix_str(f"{ended} of {len(configs)} runs", refresh=False)
                bar.update(counter.value - bar.n)
        except BaseException:
            _signal_workers(signal.SIGTERM)
            raise


def gpus_here() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def _signal_workers(number: int) -> None:
    for process in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)  # type: ignore[arg-type]


def _start_worker(counter: Any, devices: Any) -> None:
    global _steps_done
    _steps_done = counter
    gpu = devices.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    tqdm.set_lock(threading.RLock())  # its default lock is a semaphore, which a killed process would leave behind
    # Ctrl-C and a cluster's signals reach the whole process group; it is the parent's to tell the workers. They may come between two runs.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
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
    except (TrainingFailed, OutOfMemory) as error:
        failure = str(error)
    finally:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # nobody waits for the result, and the pool's queue would block this process for ever
    count(cfg.num_steps - counted)
    return failure
