"""Measure a run's speed: tokens or images per second, and model FLOPs utilization (MFU).

MFU is the model's own arithmetic as a share of the GPUs' peak.
"""

from collections.abc import Mapping

import torch

from tasks.engine.workload import Work

# Dense bfloat16 FLOP/s by part of the device's name, from NVIDIA's data sheets. The first match
# counts.
PEAKS: Mapping[str, float] = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 150e12,
    "A10": 125e12,
    "L40S": 362e12,
}


def peak_flops(precision: str, device: torch.device) -> float | None:
    """Return the device's bfloat16 FLOP/s, or None for another precision, a CPU or a GPU not in the table."""
    if precision != "bf16" or device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def rates(work: Work | None, steps: int, seconds: float, peak: float | None, processes: int) -> dict[str, float]:
    """Return {"tokens_per_second": ..., "mfu": ...} of `steps` updates in `seconds`, without unknown values.

    Args:
        work: what one update processes.
        steps: number of updates.
        seconds: time they took.
        peak: FLOP/s of one of the run's processes.
        processes: number of processes in the run.
    """
    if work is None or not steps or not seconds:
        return {}
    per_second = steps * work.per_step / seconds
    known = {f"{work.unit}s_per_second": per_second}
    if work.flops is not None and peak is not None:
        known["mfu"] = per_second * work.flops / (peak * processes)
    return known
