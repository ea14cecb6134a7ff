"""What a record says of the machine and the code that made it."""

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

# What the suite itself writes into its repository.
NOT_CODE = (".", ":(exclude)results/mini", ":(exclude)results/paper")
PACKAGES = ("torch", "torchvision", "numpy", "timm", "transformers", "open_clip_torch", "nnunetv2")


def versions() -> dict[str, str]:
    """Python and those of the suite's packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Processor, cores, threads in use of each process, the GPU if the run used one, and the number of processes (one a GPU)."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processes": processes,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def git_commit() -> str | None:
    """The commit of the code, with "-dirty" if tracked files other than results differ from it; None outside a repository."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *NOT_CODE)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()
