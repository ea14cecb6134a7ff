"""Which path a parameter takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from cpr.kernels import build, cpu, eager
from cpr.measures import Measure, Pull
from cpr.pack import Pack

CHOICES = ("auto", "eager", "cpu")


class Kernel(NamedTuple):
    """sums(parameters, measure): what R is made of. adam_(pack, grads, group, pull, measure): the step; its sums, if it took them."""

    sums: Callable[[Sequence[Tensor], Measure], Tensor]
    adam_: Callable[[Pack, list[Tensor], dict[str, Any], Pull | None, Measure | None], Tensor | None]


EAGER, CPU = Kernel(eager.sums, eager.adam_), Kernel(cpu.sums, cpu.adam_)


def select(parameter: Tensor, choice: str) -> Kernel:
    """The fastest kernel that can work on the parameter, or the one chosen.

    Raises ValueError if the chosen one cannot.
    """
    if choice == "eager" or not cpu.handles(parameter):
        if choice == "cpu":
            raise ValueError(
                f"kernel='cpu' cannot work on a parameter of {parameter.dtype} on {parameter.device} with strides {parameter.stride()}"
            )
        return EAGER
    if build.load():
        return CPU
    if choice == "cpu":
        raise ValueError("kernel='cpu' could not be built; the warning above says why")
    return EAGER
