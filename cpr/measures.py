"""The measures R(θ) that a bound is put on: value, pull and the limits of one pull.

Values are PER ELEMENT (mean square, mean absolute value, ...), so that one κ means the same for every matrix size; the
pull is λ times the gradient of the SUM over the elements (paper, Algorithm 1; with the sum measured as n times the mean
and μ/n as the update rate, both readings give the same λ). `std` is the exception: the public package takes its value and
its gradient as they are, and so do we (paper, Figure E.2).

| name  | R(θ), n elements                             | pull: θ ← θ - λ · ...     | largest λ of one pull |
| ----- | -------------------------------------------- | ------------------------- | --------------------- |
| l2    | mean θ²                                      | 2 θ                       | 1/4                   |
| l1    | mean |θ|                                     | sign θ, stopping at zero  | R/2                   |
| huber | mean of θ²/2 where |θ| < 1, else |θ| - 1/2   | θ clamped to [-1, 1]      | 1/2                   |
| std   | standard deviation (n - 1)                   | (θ - mean) / ((n - 1) R)  | (n - 1) R / 2         |

The last column is the multiplier whose pull takes away half of the matrix; constraint.py says why it is the limit.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Measure(NamedTuple):
    """One row of the table above.

    value(θ): 0-dim tensor R(θ). pull_(θ, λ, shrink, R): θ ← shrink · θ - λ · direction, in place, where either shrink is 1
    or λ is 0 (both 0-dim tensors). most(θ, R): the largest λ of one pull. degree: R(s θ) = s^degree R(θ) (for Huber: the
    largest such degree, reached by small elements). excess: beyond this multiple of its bound a matrix is put onto it in one pull.
    """

    value: Callable[[Tensor], Tensor]
    pull_: Callable[[Tensor, Tensor, Tensor, Tensor], object]
    most: Callable[[Tensor, Tensor], Tensor]
    degree: int
    excess: float


def scalar_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of R, κ and λ: float64 for a float64 parameter, float32 for every other one."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _l2_value(parameter: Tensor) -> Tensor:
    return torch.linalg.vector_norm(parameter, dtype=scalar_dtype(parameter)).square() / parameter.numel()


def _l2_pull_(parameter: Tensor, multiplier: Tensor, shrink: Tensor, _: Tensor) -> None:
    parameter.mul_(shrink - 2 * multiplier)


def _l1_value(parameter: Tensor) -> Tensor:
    return torch.linalg.vector_norm(parameter, ord=1, dtype=scalar_dtype(parameter)) / parameter.numel()


def _l1_pull_(parameter: Tensor, multiplier: Tensor, shrink: Tensor, _: Tensor) -> None:
    # λ·sign(θ) would push an element smaller than λ to the other side of zero, every step; clamping stops it there.
    parameter.mul_(shrink).sub_(parameter.clamp(-multiplier, multiplier))


def _huber_value(parameter: Tensor) -> Tensor:
    size = parameter.abs().to(scalar_dtype(parameter))
    inner = size.clamp(max=1)
    # inner²/2 + (size - inner) is θ²/2 inside the unit interval and |θ| - 1/2 outside.
    return (inner.square() / 2 + size - inner).mean()


def _huber_pull_(parameter: Tensor, multiplier: Tensor, shrink: Tensor, _: Tensor) -> None:
    parameter.mul_(shrink).sub_(multiplier * parameter.clamp(-1, 1))


def _std_value(parameter: Tensor) -> Tensor:
    return parameter.to(scalar_dtype(parameter)).std()


def _std_pull_(parameter: Tensor, multiplier: Tensor, shrink: Tensor, value: Tensor) -> None:
    coefficient = torch.where(value > 0, multiplier / ((parameter.numel() - 1) * value), 0)
    parameter.mul_(shrink).sub_(coefficient * (parameter - parameter.mean()))


MEASURES: dict[str, Measure] = {
    "l2": Measure(_l2_value, _l2_pull_, lambda _, value: torch.full_like(value, 0.25), degree=2, excess=4.0),
    "l1": Measure(_l1_value, _l1_pull_, lambda _, value: value / 2, degree=1, excess=1.5),
    "huber": Measure(_huber_value, _huber_pull_, lambda _, value: torch.full_like(value, 0.5), degree=2, excess=4.0),
    "std": Measure(_std_value, _std_pull_, lambda parameter, value: (parameter.numel() - 1) * value / 2, degree=1, excess=1.5),
}
