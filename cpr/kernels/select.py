"""Select the path that a parameter takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cpr.kernels import build, cpu, eager, gpu
from cpr.measures import Measure, Pull


class Kernel(NamedTuple):
    """The parts of a step. `m` is a cpr.pack.Matrices.

    Attributes:
        sums: sums(tensors, measure) returns the sums that R is made of, float64 [m, 2].
        refresh: refresh(m) makes m.sums match the present parameters.
        constrain: constrain(m) moves λ and κ, and returns the pull (cpr.bounds.constrain).
        adam_: adam_(m, pull) does θ ← θ + Opt(g) − pull and counts the step. It leaves the sums of the
            new θ in m.sums if its measure needs them. The eager path does so only for
            evaluate_at="after".
        pull_: pull_(tensors, pull, measure) does θ ← θ − pull.
        layouts: layouts(tensors) returns a value that is equal as long as shapes, strides, dtypes and
            devices are. This is faster than a comparison in Python.
        fit: fit(tensors, gradients, moments) returns whether gradients have the right shape, and
            moments also the right layout, dtype and device.
        after_: after_(m) does adam_, constrain and pull_ of evaluate_at="after" in one, for kernels
            that are faster that way.
    """

    sums: Callable[[Sequence[Tensor], Measure], Tensor]
    refresh: Callable[[Any], None]
    constrain: Callable[[Any], Pull]
    adam_: Callable[[Any, Pull | None], None]
    pull_: Callable[[list[Tensor], Pull, Measure], None]
    layouts: Callable[[list[Tensor]], Any] | None = None
    fit: Callable[[list[Tensor], list[Tensor], Sequence[list[Tensor]]], bool] | None = None
    after_: Callable[[Any], None] | None = None


EAGER = Kernel(eager.sums, eager.refresh, eager.constrain, eager.adam_, eager.pull_)
CPU = Kernel(cpu.sums, cpu.refresh, cpu.constrain, cpu.adam_, cpu.pull_, cpu.layouts, cpu.fit, cpu.after_)
TRITON = Kernel(gpu.sums, gpu.refresh, gpu.constrain, gpu.adam_, eager.pull_)


def select(parameter: Tensor, choice: str) -> Kernel:
    """Return the fastest kernel that can work on the parameter, or the chosen one.

    Raises:
        ValueError: the chosen kernel cannot work on the parameter.
    """
    if choice == "eager":
        return EAGER
    if choice != "cpu" and gpu.handles(parameter) and (choice == "triton" or parameter.is_cuda):
        return TRITON
    if choice != "triton" and cpu.handles(parameter) and build.load():
        return CPU
    if choice == "auto":
        return EAGER
    if choice == "triton" and not gpu.available():
        raise ValueError("kernel='triton' needs Triton, which is not installed: pip install triton")
    if choice == "cpu" and cpu.handles(parameter):
        raise ValueError("kernel='cpu' could not be built. The warning above says why")
    raise ValueError(
        f"kernel={choice!r} cannot work on a parameter of {parameter.dtype} on {parameter.device} with strides "
        f"{parameter.stride()}. Use kernel='auto'"
    )
