"""What a record says about the code, the data and the machine that made it."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from cpr import CPR, AdamCPR
from cpr.distributed import local
from cpr.kernels.select import CPU, EAGER, TRITON, select
from tasks.engine.code import git_commit

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
    optimizer = getattr(optimizer, "base", optimizer)  # of a schedule-free one
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
