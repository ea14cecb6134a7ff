"""The stage that measures Table I.2's optimizer steps and training steps, and a loader beside the model's speed."""

import subprocess
import sys
from pathlib import Path

import torch

from scripts.check.report import FAILED, NOT_RUN, PASSED, Stage

ROUNDS = 5
TINY = ("+task.model.arguments.embed_dim=32", "+task.model.arguments.depth=1", "+task.model.arguments.num_heads=1")
SHAPES = "gpt2s,gpt2m,deits,resnet50,vitb32,toy"


def step_times(device: torch.device, folder: Path, seconds: float) -> Stage:
    """Measure the optimizers of Table I.2. On a CPU with one tiny shape."""
    shapes, rounds = (SHAPES, ROUNDS) if device.type == "cuda" else ("tiny", 2)
    keys = [f"device={device.type}", "tables=table_i2", f"shapes={shapes}", f"rounds={rounds}", f"results_dir={folder}"]
    return _command("step_times", "scripts.bench.step_times", keys, seconds)


def loading(device: torch.device, folder: Path, seconds: float) -> Stage:
    """Measure the loader of images at 224 pixels beside timm's and the model's step. On a CPU with a tiny model."""
    keys = [f"device={device.type}", "rounds=3", "task=imagenet"]
    keys += ["task.batch_size=256"] if device.type == "cuda" else ["photos=8", "task.batch_size=8", *TINY]
    return _command("loading", "scripts.bench.loading", keys, seconds)


def _command(name: str, module: str, keys: list[str], seconds: float) -> Stage:
    """Run a command of the bench, and keep what it prints."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *keys], timeout=seconds, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return Stage(name, NOT_RUN, f"not done within {seconds:.0f} s")
    if done.returncode != 0:
        return Stage(name, FAILED, (done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
    return Stage(name, PASSED, f"python -m {module} {' '.join(keys)}", text=done.stdout.strip())
