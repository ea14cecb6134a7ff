"""Time and extra peak memory of an optimizer step, interleaved in one process:  make bench [ROUNDS=15] [SHAPES=gpt2s,resnet18,toy]

Every method has parameters of its own and all share the gradients. The bounds are set at the first step, so that every timed step is a
full one. Ratios are to torch's fused AdamW, round by round.
"""

import itertools
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cpr import CPR, AdamCPR
from scripts.common import one_line_errors
from tasks.engine.errors import UserError

REFERENCE = "torch AdamW, fused"
WARM_UP = 3
BOUND = {"kappa_init_method": "warm_start", "kappa_init_param": 1}


def gpt2s() -> list[tuple[int, ...]]:
    """GPT-2 small: 124 million parameters in 74 tensors, biases and norms included."""
    block = [(2304, 768), (2304,), (768, 768), (768,), (3072, 768), (3072,), (768, 3072), (768,), *[(768,)] * 4]
    return [(50257, 768), *block * 12, (768,), (768,)]


def resnet18() -> list[tuple[int, ...]]:
    """The suite's ResNet18: 11 million parameters."""
    from tasks.cifar100.model import ResNet18

    return [tuple(p.shape) for p in ResNet18(100).parameters()]


def toy() -> list[tuple[int, ...]]:
    """A thousand layers of 32 x 32: nothing but overhead."""
    return [(32, 32)] * 1000


SHAPES = {"gpt2s": gpt2s, "resnet18": resnet18, "toy": toy}


def methods() -> dict[str, Callable[[list[nn.Parameter]], Optimizer]]:
    """Name -> optimizer of parameters; matrices are decayed or bounded, vectors are not."""

    def groups(parameters: list[nn.Parameter], **matrices: object) -> list[dict]:
        return [
            {"params": [p for p in parameters if p.ndim > 1], "regularize": True, **matrices},
            {"params": [p for p in parameters if p.ndim < 2], "regularize": False, "weight_decay": 0.0},
        ]

    found: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        REFERENCE: lambda p: torch.optim.AdamW(groups(p, weight_decay=0.1), fused=True),
        "torch AdamW": lambda p: torch.optim.AdamW(groups(p, weight_decay=0.1), foreach=False),
        "torch AdamW, foreach": lambda p: torch.optim.AdamW(groups(p, weight_decay=0.1), foreach=True),
        "AdamCPR": lambda p: AdamCPR(groups(p), **BOUND),  # type: ignore[arg-type]
        "AdamCPR, kernel=eager": lambda p: AdamCPR(groups(p), kernel="eager", **BOUND),  # type: ignore[arg-type]
        "CPR(torch Adam, fused)": lambda p: CPR(torch.optim.Adam(groups(p), fused=True), **BOUND),  # type: ignore[arg-type]
    }
    try:
        import pytorch_cpr
    except ImportError:
        return found
    return found | {"pytorch-cpr": lambda p: pytorch_cpr.AdamCPR(groups(p), **BOUND)}


def peak_kilobytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(shapes: list[tuple[int, ...]], rounds: int) -> dict[str, tuple[list[float], int]]:
    """Seconds of every timed step, and by how many kB a method's steps after the first raised the process's peak."""
    torch.manual_seed(0)
    gradients = [0.01 * torch.randn(shape) for shape in shapes]
    steppers: dict[str, Optimizer] = {}
    times: dict[str, list[float]] = {}
    extra: dict[str, int] = {}
    for name, make in methods().items():
        parameters = [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        steppers[name], times[name] = make(parameters), []
        steppers[name].step()  # makes the state
        before = peak_kilobytes()
        steppers[name].step()
        extra[name] = peak_kilobytes() - before
    for _, (name, optimizer) in itertools.product(range(WARM_UP + rounds), steppers.items()):
        start = time.perf_counter()
        optimizer.step()
        times[name].append(time.perf_counter() - start)
    return {name: (seconds[WARM_UP:], extra[name]) for name, seconds in times.items()}


def main(arguments: list[str]) -> None:
    """Prints a table for each set of shapes."""
    options = {"rounds": "15", "shapes": ",".join(SHAPES)} | dict(a.split("=", 1) for a in arguments if "=" in a)
    if unknown := set(options["shapes"].split(",")) - set(SHAPES):
        raise UserError(f"shapes={','.join(sorted(unknown))} is unknown; choose of {', '.join(SHAPES)}")
    if not options["rounds"].isdigit() or int(options["rounds"]) < 1:
        raise UserError(f"rounds={options['rounds']} must be a whole number >= 1")
    warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_cpr")
    for name in options["shapes"].split(","):
        shapes = SHAPES[name]()
        results = measure(shapes, int(options["rounds"]))
        count = sum(torch.Size(shape).numel() for shape in shapes)
        print(f"\n{name}: {count:,} parameters in {len(shapes)} tensors, {torch.get_num_threads()} threads, {options['rounds']} rounds")
        print(f"{'':24} {'median':>10} {'x fused AdamW (min to max)':>30} {'extra peak':>12}")
        reference = results[REFERENCE][0]
        for method, (seconds, extra) in results.items():
            ratios = [a / b for a, b in zip(seconds, reference, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{method:24} {1000 * statistics.median(seconds):7.2f} ms {spread:>30} {extra / 1024:9.1f} MB", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
