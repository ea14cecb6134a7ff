"""The measures R(θ) of a matrix's size: their sums, their values, their pulls and the limit of one pull.

Values are PER ELEMENT (mean square, mean absolute value, ...), so one κ means the same for every
matrix size. The pull is λ times the gradient of the SUM over the elements (paper, Algorithm 1).
Measuring the sum, n times the mean, with an update rate of μ/n gives the same λ. `std` is the
exception. The public package takes its value and its gradient as they are, and so do we (paper,
Figure E.2).

| name  | R(θ), n elements                             | pull: θ ← θ - λ · ...     | largest λ of one pull |
| ----- | -------------------------------------------- | ------------------------- | --------------------- |
| l2    | mean θ²                                      | 2 θ                       | 1/4                   |
| l1    | mean |θ|                                     | sign θ, stopping at zero  | R/2                   |
| huber | mean of θ²/2 where |θ| < 1, else |θ| - 1/2   | θ clamped to [-1, 1]      | 1/2                   |
| std   | standard deviation (n - 1)                   | (θ - mean) / ((n - 1) R)  | (n - 1) R / 2         |

The last column is the λ at which one pull removes half of the matrix. bounds.py explains the limit.

Every R is a function of two sums over the elements, which add up over the shards of a matrix. Every
pull has the form of `Pull`. One kernel therefore serves all measures, and it can take the sums of
θ_{t+1} while it writes θ_{t+1}.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cpr.distributed import unsharded
from cpr.pieces import pieces

# Elements of a row are added up in float32 and rows in float64. The worst case, equal elements,
# loses 5e-7.
ROW = 256


class Pull(NamedTuple):
    """θ ← scale · θ - rate · clamp(θ - center, ±limit), where each field is a vector [matrices]."""

    scale: Tensor
    rate: Tensor
    center: Tensor
    limit: Tensor


class Measure(NamedTuple):
    """One row of the table above.

    All tensors are vectors over matrices, except θ. n is float64.

    Attributes:
        code: the measure's number in the kernels.
        sums: sums(θ) returns float64 [2]: the sum that R is made of and, for std, the sum of θ. On a
            CPU its temporaries hold less than 1 MB. The result has the same bits for any number of
            threads.
        value: value(sums [m, 2], n) returns R.
        pull: pull(λ, shrink, R, sums, n) returns θ ← shrink · θ - λ · direction, where either shrink
            is 1 or λ is 0.
        most: most(R, n) returns the largest λ of one pull.
        degree: R(s θ) = s^degree R(θ). For Huber it is the largest such degree, which small elements
            reach.
        excess: a matrix beyond this multiple of its bound is put onto the bound in one pull.
    """

    code: int
    sums: Callable[[Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    pull: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Pull]
    most: Callable[[Tensor, Tensor], Tensor]
    degree: int
    excess: float


def scalar_dtype(parameter: Tensor) -> torch.dtype:
    """Return the dtype of R, κ and λ: float64 for a float64 parameter, else float32."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _in_pieces(sums_of: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], Tensor]:
    """Build `Measure.sums` from a function of one piece.

    The function returns the first sum, or both, as float64 scalars.
    """

    def sums(theta: Tensor) -> Tensor:
        found: tuple[Tensor, ...] = ()
        # Add piece by piece: small results kept to the end would keep the temporaries' memory in use.
        for piece in pieces(theta):
            found = tuple(a + b for a, b in zip(found, sums_of(piece), strict=True)) if found else sums_of(piece)
        return torch.stack(found if len(found) == 2 else (*found, torch.zeros_like(found[0])))

    return sums


def _add_up(terms: Tensor) -> Tensor:
    rows, rest = _rows(terms)
    total = rows.sum(1).double().sum()
    return total + rest.sum().double() if rest.numel() else total


def _squares(piece: Tensor) -> Tensor:
    # torch's norm of a row squares and adds in float32 without a temporary. Its float64 norm of a
    # float32 tensor would copy the tensor.
    rows, rest = _rows(piece)
    total = torch.linalg.vector_norm(rows, dim=1, dtype=scalar_dtype(piece)).double().square_().sum()
    return (
        total + torch.linalg.vector_norm(rest, dtype=scalar_dtype(piece)).double().square_() if rest.numel() else total
    )


def _rows(piece: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elements as rows of ROW, and the rest."""
    flat = piece.reshape(-1)
    in_rows = flat.numel() - flat.numel() % ROW
    return flat[:in_rows].view(-1, ROW), flat[in_rows:]


def _mean(sums: Tensor, n: Tensor) -> Tensor:
    return sums[:, 0] / n


def _l2_sums(piece: Tensor) -> tuple[Tensor, ...]:
    return (_squares(piece),)


def _l2_pull(lam: Tensor, shrink: Tensor, value: Tensor, sums: Tensor, n: Tensor) -> Pull:
    zero = torch.zeros_like(shrink)
    return Pull(shrink - 2 * lam, zero, zero, zero)


def _l1_sums(piece: Tensor) -> tuple[Tensor, ...]:
    return (_add_up(piece.abs().to(scalar_dtype(piece))),)


def _l1_pull(lam: Tensor, shrink: Tensor, value: Tensor, sums: Tensor, n: Tensor) -> Pull:
    # λ·sign(θ) would push an element smaller than λ across zero at every step. Clamping stops it at zero.
    return Pull(shrink, torch.ones_like(shrink), torch.zeros_like(shrink), lam)


def _huber_sums(piece: Tensor) -> tuple[Tensor, ...]:
    size = piece.abs().to(scalar_dtype(piece))
    inner = size.clamp(max=1)
    # (size - inner) + inner²/2 is θ²/2 inside the unit interval and |θ| - 1/2 outside.
    return (_add_up(size.sub_(inner).add_(inner.square_().div_(2))),)


def _huber_pull(lam: Tensor, shrink: Tensor, value: Tensor, sums: Tensor, n: Tensor) -> Pull:
    return Pull(shrink, lam, torch.zeros_like(shrink), torch.ones_like(shrink))


def _std_sums(piece: Tensor) -> tuple[Tensor, ...]:
    # The variance is a small difference of two large sums. float32 would lose a small deviation.
    wide = piece.double()
    return _squares(wide), _add_up(wide)


def _std_value(sums: Tensor, n: Tensor) -> Tensor:
    return ((sums[:, 0] - sums[:, 1].square() / n).clamp(min=0) / (n - 1)).sqrt()


def _std_pull(lam: Tensor, shrink: Tensor, value: Tensor, sums: Tensor, n: Tensor) -> Pull:
    rate = torch.where(value > 0, lam / ((n - 1) * value), 0).to(shrink.dtype)
    return Pull(shrink, rate, (sums[:, 1] / n).to(shrink.dtype), torch.full_like(shrink, torch.inf))


def _std_most(value: Tensor, n: Tensor) -> Tensor:
    return (n - 1).to(value.dtype) * value / 2


def _no_more_than(limit: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda value, n: torch.full_like(value, limit)


MEASURES: dict[str, Measure] = {
    "l2": Measure(1, _in_pieces(_l2_sums), _mean, _l2_pull, _no_more_than(0.25), degree=2, excess=4.0),
    "l1": Measure(2, _in_pieces(_l1_sums), _mean, _l1_pull, lambda value, n: value / 2, degree=1, excess=1.5),
    "huber": Measure(3, _in_pieces(_huber_sums), _mean, _huber_pull, _no_more_than(0.5), degree=2, excess=4.0),
    "std": Measure(4, _in_pieces(_std_sums), _std_value, _std_pull, _std_most, degree=1, excess=1.5),
}


def value_of(name: str, theta: Tensor) -> Tensor:
    """Return R(θ) of one matrix, 0-dim, in `scalar_dtype`.

    For a DTensor this is R of the whole matrix, and all ranks must call it together.
    """
    theta = unsharded(theta)
    measure = MEASURES[name]
    n = torch.tensor([theta.numel()], dtype=torch.float64, device=theta.device)
    return measure.value(measure.sums(theta)[None], n)[0].to(scalar_dtype(theta))
