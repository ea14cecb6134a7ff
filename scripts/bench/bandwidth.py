"""Measure the machine's memory bandwidth, as torch reaches it with the threads in use."""

import time
from collections.abc import Callable

import torch


def bandwidth(device: torch.device, elements: int = 2**26) -> dict[str, float]:
    """Return the bytes per second of three kernels, from one call each.
    The float32 buffers of 256 MB each are larger than any cache. The kernels are

    - copy, a = b,
    - triad, a = b + s c,
    - update, a = a + s b, as in an optimizer's step.

    copy and triad write to memory that they have not read, which a CPU reads first. update does
    not.

    Returns:
        Bytes per second by kernel, counting the bytes that it reads and writes by name.
    """
    a, b, c = (torch.full((elements,), 1.0, device=device) for _ in range(3))
    kernels: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (8, lambda: a.copy_(b)),
        "triad": (12, lambda: torch.add(b, c, alpha=0.5, out=a)),
        "update": (12, lambda: a.add_(b, alpha=0.5)),
    }
    return {name: moved * elements / timed(call, device) for name, (moved, call) in kernels.items()}


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, including the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
