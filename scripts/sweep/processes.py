"""Train runs with several processes each on this machine, as torchrun does, and pass signals on to them."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from scripts.cli.parser import ROOT
from tasks.engine import attempts, records
from tasks.engine.errors import Interrupted, TrainingFailed, UserError
from tasks.engine.launch import Launch, launched
from tasks.engine.terminal import say

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 30.0  # seconds that the others have after one process has failed
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl


def starts_alone(gpus: int) -> bool:
    """Return whether a run on several GPUs has nobody who starts its processes: neither torchrun nor srun."""
    return gpus > 1 and launched() == Launch() and "RANK" not in os.environ


def start_processes(command: list[str], count: int) -> int:
    """Run `count` copies of a command as the processes of one run. Return the first exit code that is not 0.
    After one has failed, the others are stopped. They end with a checkpoint if this process is killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command,
            env={"OMP_NUM_THREADS": "1"} | os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,  # Ctrl-C reaches them once, from here
            preexec_fn=_end_with_parent,
        )
        for rank in range(count)
    ]

    def pass_on(number: int, _: FrameType | None) -> None:
        _signal(processes, number)

    old = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        return _wait(processes)
    finally:
        _signal(processes, signal.SIGKILL)
        for number, handler in old.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _signal(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _wait(processes: list[subprocess.Popen]) -> int:
    """Return the exit code of the process that failed first, or 0."""
    failed, patience_ends = 0, 0.0
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        if not failed and (codes := [process.returncode for process in processes if process.returncode]):
            failed, patience_ends = codes[0], time.monotonic() + PATIENCE
        if failed and time.monotonic() > patience_ends:
            _signal(processes, signal.SIGTERM if time.monotonic() < patience_ends + PATIENCE else signal.SIGKILL)
    code = failed or next((process.returncode for process in processes if process.returncode), 0)
    return 128 - code if code < 0 else code


def check_together(nodes: int, gpus: int, jobs: int) -> None:
    """Raise UserError if `train_together` can't train runs on `nodes` times `gpus` GPUs, `jobs` at a time."""
    if nodes > 1:
        raise UserError(f"nodes={nodes} need launcher=slurm, or train.py under torchrun or srun on each machine")
    if gpus > 1 and jobs > 1:
        raise UserError(f"jobs={jobs} must be 1 for runs of several processes (gpus={gpus})")


def train_together(configs: list[DictConfig], title: str) -> None:
    """Train the runs one after the other, each with one process per GPU. Start again after a killed process.

    Raises:
        Interrupted: after SIGTERM, SIGINT or SIGUSR2. The run in progress has written a checkpoint.
        TrainingFailed: the processes end again and again before they train.
        SystemExit: the processes have reported an error that ends the sweep.
    """
    for _ in range(attempts.LIMIT * len(configs) + 1):
        left = [cfg for cfg in configs if not records.has_record(cfg)]
        if not left or (code := _train(left, title)) == 0:
            return
        if code > 128 and code != 128 + signal.SIGKILL:
            raise Interrupted(code - 128, f"{title} stopped; run the same command to resume")
        if code == UserError.exit_code:
            sys.exit(code)
        say(f"{title}: a process ended with exit code {code}; its run resumes from the last checkpoint")
    raise TrainingFailed(f"{title}: the processes end again and again before they train")


def _train(configs: list[DictConfig], title: str) -> int:
    from scripts.sweep.slurm import plain

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([plain(cfg) for cfg in configs], file)
        file.flush()
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "scripts.sweep.processes", file.name, title]
        return start_processes(command, configs[0].gpus)


def main(path: str, title: str) -> None:
    """Train the runs of a file, as one of their processes."""
    from scripts.sweep.slurm import Work

    Work(json.loads(Path(path).read_text()), 1, title)()


if __name__ == "__main__":
    main(*sys.argv[1:])
