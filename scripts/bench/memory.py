"""Measure free memory, and by how much a call raises the peak."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch

MARGIN = 500_000_000  # for the libraries and the operating system


def free_bytes(device: torch.device) -> int:
    """Return the available bytes of the device's memory. On the CPU a container's limit counts too."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] - MARGIN
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found = [1024 * int(lines["MemAvailable"].split()[0])]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found) - MARGIN


def extra_peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Return by how many bytes `call` raises the peak of the memory in use, or None if the system does not tell.
    On the CPU this is the resident memory of this process. It counts whole touched pages, and is
    exact to about 0.3 MB.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # Freed memory that the allocator keeps would hide what the call needs.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
        before = _peak_resident()
        call()
        return _peak_resident() - before
    except (OSError, AttributeError, KeyError):
        return None


def _peak_resident() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
