"""The machine's memory bandwidth, as torch reaches it with the threads in use."""

import time
from collections.abc import Callable

import torch


def bandwidth(device: torch.device, elements: int = 2**26) -> dict[str, float]:
    """Bytes per second of three kernels over float32 buffers larger than any cache (256 MB each): read and written by name, one call each.

    copy a = b and triad a = b + s c write to memory that they have not read, for which a CPU reads it first; update a = a + s b, as an
    optimizer's step does, does not.
    """
    a, b, c = (torch.full((elements,), 1.0, device=device) for _ in range(3))
    kernels: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (8, lambda: a.copy_(b)),
        "triad": (12, lambda: torch.add(b, c, alpha=0.5, out=a)),
        "update": (12, lambda: a.add_(b, alpha=0.5)),
    }
    return {name: moved * elements / timed(call, device) for name, (moved, call) in kernels.items()}


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
