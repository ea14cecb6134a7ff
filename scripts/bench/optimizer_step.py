"""Time of an optimizer step as a multiple of torch's AdamW, interleaved in one process:  make bench

The matrices are those of a GPT-2 of 4 layers and width 256 (about 3 million parameters), float32, on the CPU.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cpr import CPR, AdamCPR

WIDTH, LAYERS, ROUNDS = 256, 4, 60
SHAPES = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)] * LAYERS


def optimizers() -> dict[str, Optimizer]:
    """Each method on matrices of its own; the bounds are set at the first step, so that every timed step is a full one."""
    bound = {"kappa_init_method": "warm_start", "kappa_init_param": 1}
    makers: dict[str, Callable[[list[dict]], Optimizer]] = {
        "torch AdamW": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
        "torch AdamW, fused": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, fused=True),
        "AdamCPR": lambda groups: AdamCPR([group | {"regularize": True} for group in groups], **bound),  # type: ignore[arg-type]
        "CPR(torch Adam)": lambda groups: CPR(
            torch.optim.Adam([group | {"regularize": True} for group in groups]),
            **bound,  # type: ignore[arg-type]
        ),
    }
    torch.manual_seed(0)
    return {name: make([{"params": [nn.Parameter(0.02 * torch.randn(shape)) for shape in SHAPES]}]) for name, make in makers.items()}


def main() -> None:
    """Prints the median of each method and its ratio to AdamW's."""
    methods = optimizers()
    for optimizer in methods.values():
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = 0.01 * torch.randn_like(parameter)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for round_number in range(ROUNDS + 5):
        for name, optimizer in methods.items():
            start = time.perf_counter()
            optimizer.step()
            if round_number >= 5:
                times[name].append(time.perf_counter() - start)
    reference = statistics.median(times["torch AdamW"])
    print(f"{sum(a * b for a, b in SHAPES):,} parameters in {len(SHAPES)} matrices, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:20} {1000 * median:7.2f} ms  {median / reference:5.2f} x torch AdamW")


if __name__ == "__main__":
    main()
