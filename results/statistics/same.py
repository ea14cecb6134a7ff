"""Test whether two methods are the same, within a margin that the data themselves can resolve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from results.statistics.paired import LEVEL, Difference, difference


@dataclass(frozen=True)
class Sameness:
    """The outcome of two one-sided paired t-tests (TOST).

    margin: half of the lower 95 % limit of the control's difference. None if the control itself is
        not told apart, so that nothing can be concluded.
    p_same: p-value for a difference within the margin.
    p_different: p-value for a difference beyond the margin.
    """

    difference: Difference
    margin: float | None
    p_same: float = 1.0
    p_different: float = 1.0


def sameness(left: Sequence[float], right: Sequence[float], control: Difference | None) -> Sameness | None:
    """Compare `left` and `right`, scores on the same seeds in the same order.

    Args:
        control: a difference that must be there, such as that of no regularization. Its sign does
            not matter.

    Return None if `difference` does.
    """
    found = difference(left, right)
    if found is None:
        return None
    nearest = 0.0 if control is None else max(control.low, -control.high)
    if nearest <= 0:
        return Sameness(found, None)
    margin = nearest / 2
    if found.std == 0:
        within = abs(found.mean) < margin
        return Sameness(found, margin, 0.0 if within else 1.0, 1.0 if within else 0.0)
    error, freedom = found.std / math.sqrt(found.pairs), found.pairs - 1
    below_upper = float(special.stdtr(freedom, (found.mean - margin) / error))
    above_lower = float(special.stdtr(freedom, -(found.mean + margin) / error))
    p_different = min(1.0, 2 * min(1 - below_upper, 1 - above_lower))
    return Sameness(found, margin, max(below_upper, above_lower), p_different)


def is_same(found: Sameness, level: float = LEVEL) -> bool | None:
    """Return whether the methods are the same, or None if that is not resolved."""
    if found.margin is None:
        return None
    if found.p_same < level:
        return True
    return False if found.p_different < level else None
