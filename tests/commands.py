"""Run command lines as a user types them, in real processes, and write small data sets for them."""

import hashlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import command_server
import torch

from tasks.engine import verified

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *arguments]


def call(script: str, *arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess:
    """Run a script to its end. Without options of subprocess.run, it is a fork of a process with the imports done."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if options.keys() <= {"cwd"}:
        return command_server.call(command(script, *arguments)[1:], environment, timeout, options.get("cwd"))
    return subprocess.run(
        command(script, *arguments), capture_output=True, text=True, timeout=timeout, env=environment, **options
    )


def call_forked(script: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
    """Run a script like `call`, in a fork of this process. The imports are done, which saves seconds.

    Use it for commands that are refused before training. A fork can't reliably train on threads or open
    a GPU.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = multiprocessing.get_context("fork").Process(
            target=_become, args=(command(script, *arguments)[1:], out, err)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([script, *arguments], timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([script, *arguments], process.exitcode, out.read(), err.read())


def _become(argv: list[str], out: Any, err: Any) -> None:
    """Run a script in this process, with these files as its streams."""
    for stream, number in ((out, 1), (err, 2)):
        os.dup2(stream.fileno(), number)
    sys.argv, sys.stdout, sys.stderr = argv, out, err
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        out.flush()
        err.flush()


def start(script: str, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command(script, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_until(condition: Any, seconds: float = 90) -> None:
    """Return when the condition is true. Fail if that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.01)


def records(runs_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the record of every run that has ended, by run id."""
    return {path.parent.name: json.loads(path.read_text()) for path in runs_dir.glob("*/*/record.json")}


def is_one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    """Fail unless the standard error stream is one line with all the words."""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def write_fashion_mnist(root: Path, train: int = 400, test: int = 100) -> Path:
    """Write files in Fashion-MNIST's format. The position of a bright square gives the class."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, n in (("train", train), ("t10k", test)):
        labels = torch.arange(n) % 10
        images = torch.randint(0, 60, (n, 28, 28), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = divmod(label, 5)
            image[4 + 12 * row : 12 + 12 * row, 1 + 5 * column : 6 + 5 * column] += 180
        for kind, data, header in (("images-idx3", images, (2051, n, 28, 28)), ("labels-idx1", labels, (2049, n))):
            content = b"".join(number.to_bytes(4, "big") for number in header) + data.to(torch.uint8).numpy().tobytes()
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(content)
    verified.remember(raw, [path.name for path in raw.iterdir()])
    return root


def write_tokens(root: Path, name: str, vocabulary: int, train: int = 6000, validation: int = 1000) -> Path:
    """Write a prepared data set of the task gpt2. It is easy to learn: each token adds 1 to 3 to the last."""
    folder = root / "gpt2" / name
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    shards: dict[str, list[dict[str, Any]]] = {}
    for split, count in (("train", train), ("validation", validation)):
        content = (
            (torch.randint(1, 4, (count,), generator=generator).cumsum(0) % vocabulary)
            .to(torch.uint16)
            .numpy()
            .tobytes()
        )
        (folder / f"{split}-00000.bin").write_bytes(content)
        shards[split] = [
            {
                "file": f"{split}-00000.bin",
                "sha256": hashlib.sha256(content).hexdigest(),
                "documents": 1,
                "tokens": count,
            }
        ]
    (folder / "manifest.json").write_text(json.dumps({"name": name, "shards": shards}))
    return root
