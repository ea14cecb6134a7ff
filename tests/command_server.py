"""Fork command lines from one process that has imported the suite, which saves seconds for each.

The server has one thread, so a fork of it trains as a new process does. It starts with the first
request and ends with the process that asks.
"""

import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

# What train.py and reproduce.py import, and the libraries that tasks import later.
PRELOADED = ("scripts.train", "scripts.reproduce", "torch._dynamo", "torchvision")
NAME = Path("/proc/self/comm").read_text()  # of this process and its first thread


def call(argv: list[str], environment: dict[str, str], timeout: float, cwd: Path | None) -> subprocess.CompletedProcess:
    """Run a script in a fork of the server, as subprocess.run does with captured output and text.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {"argv": argv, "environment": environment, "cwd": str(cwd or Path.cwd()), "out": str(out)}
        server.stdin.write(json.dumps(request | {"err": str(err)}) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        late.start()
        returncode = int(server.stdout.readline())
        late.cancel()
        if late.finished.is_set() and returncode == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(argv, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(argv, returncode, out.read_text(), err.read_text())


@functools.cache
def _server() -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer each request with the process id of its fork, and then with its return code."""
    for name in PRELOADED:
        importlib.import_module(name)
    for line in iter(requests.readline, ""):
        # A fork has the locks of other threads, but not the threads. jemalloc, pyarrow's, is made for that.
        assert {task.read_text() for task in Path("/proc/self/task").glob("*/comm")} <= {NAME, "jemalloc_bg_thd\n"}
        if (pid := os.fork()) == 0:
            _become(**json.loads(line))
            return
        print(pid, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


def _become(argv: list[str], environment: dict[str, str], cwd: str, out: str, err: str) -> None:
    """Run a script in this process, as Python does."""
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, flags | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv, sys.orig_argv = argv, [sys.executable, *argv]
    sys.path[0] = str(Path(argv[0]).parent)
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
