"""Holm's correction for several tests."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return the corrected p-values by the same keys. They must be numbers in [0, 1].

    They equal those of statsmodels' multipletests, which collects garbage at every call: up to
    seconds in a large process.
    """
    ordered = sorted(p_values, key=p_values.__getitem__)
    corrected, largest = {}, 0.0
    for rank, key in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[key]))
        corrected[key] = largest
    return corrected
