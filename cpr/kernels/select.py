"""Which path a parameter takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cpr.kernels import build, cpu, eager, gpu
from cpr.measures import Measure
from cpr.pack import Pack

CHOICES = ("auto", "eager", "cpu", "triton")


class Kernel(NamedTuple):
    """sums(parameters, measure): what R is made of. adam_(pack, grads, group): a step, with the pull if it is to be taken before.

    `adam_` returns the sums of the new parameters, if it took them.
    """

    sums: Callable[[Sequence[Tensor], Measure], Tensor]
    adam_: Callable[[Pack, list[Tensor], dict[str, Any]], Tensor | None]


EAGER, CPU, TRITON = Kernel(eager.sums, eager.adam_), Kernel(cpu.sums, cpu.adam_), Kernel(gpu.sums, gpu.adam_)


def select(parameter: Tensor, choice: str) -> Kernel:
    """The fastest kernel that can work on the parameter, or the one chosen.

    Raises ValueError if the chosen one cannot.
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
        raise ValueError("kernel='cpu' could not be built; the warning above says why")
    raise ValueError(
        f"kernel={choice!r} cannot work on a parameter of {parameter.dtype} on {parameter.device} with strides {parameter.stride()}"
    )
