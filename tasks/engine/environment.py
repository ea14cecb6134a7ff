"""What a record says about the code, the data and the machine that made it."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from cpr import CPR, AdamCPR
from cpr.distributed import local
from cpr.kernels.select import CPU, EAGER, TRITON, select

# Paths in the repository that the suite itself writes.
NOT_CODE = (".", ":(exclude)results/mini", ":(exclude)results/paper")
CODE = ("cpr", "tasks", "scripts", "results/*.py", "configs")
PACKAGES = ("torch", "torchvision", "numpy", "timm", "transformers", "open_clip_torch", "nnunetv2")


# Changes in these change the bits of a run. The values are the words of a message.
COMPARED = {"git_commit": "code", "versions": "versions", "hardware": "hardware", "kernel": "kernel", "data": "data"}


def state_of(device: torch.device, processes: int, optimizer: Optimizer | None, data: str | None) -> dict[str, Any]:
    """Return what trains a run's steps: code, versions, hardware, the optimizer's kernel and the data's digest."""
    return {
        "git_commit": git_commit(),
        "versions": versions(),
        "hardware": hardware(device, processes),
        "kernel": kernel_of(optimizer),
        "data": data,
    }


def kernel_of(optimizer: Optimizer | None) -> str | None:
    """Return the path of CPR's arithmetic, or None for other optimizers.

    It is "cpu", "eager", "triton", or several joined by "+".
    """
    if isinstance(optimizer, CPR):
        return "eager"
    if not isinstance(optimizer, AdamCPR):
        return None
    names = {EAGER: "eager", CPU: "cpu", TRITON: "triton"}
    return "+".join(
        sorted({names[select(local(p), group["kernel"])] for group in optimizer.param_groups for p in group["params"]})
    )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return in words what has changed between two states, or that the earlier state is unknown."""
    if not set(before) & set(COMPARED):
        return ["what trained it so far is unknown"]
    said = []
    for key, word in COMPARED.items():
        old, new = before.get(key), now.get(key)
        if old is None or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            said += [f"{name} {old[name]} -> {new.get(name)}" for name in old if old[name] != new.get(name)]
        else:
            said.append(f"{word} {old} -> {new}")
    return said


def versions() -> dict[str, str]:
    """Return the versions of Python and of the suite's installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return processor, cores, threads per process, GPU (None on a CPU) and number of processes (one per GPU)."""
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
    """Return the commit of the code, or None outside a repository.

    If code files differ from the commit, or are not in it, "-dirty-" and 8 digits of their content
    follow. Other changes thus give another state. A process keeps its first answer, since that is
    the code it has loaded. run.py asks before it trains.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "diff", "HEAD", "--", *NOT_CODE)
        new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines()
        contents = [path.read_bytes() for path in map(root.joinpath, new) if path.is_file()]
    except (OSError, subprocess.CalledProcessError):
        return None
    if not changed and not new:
        return commit
    digest = hashlib.sha256("\0".join([changed, *new]).encode(errors="replace") + b"\0".join(contents))
    return f"{commit}-dirty-{digest.hexdigest()[:8]}"


def _git(root: Path, *arguments: str) -> str:
    # safe.directory: the repository may belong to another user. Optional locks would disturb other
    # processes.
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
