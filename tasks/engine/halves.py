"""A score over all test examples and over each half of them.

One half chooses a method's setting, the other judges it.
"""

from torch import Tensor

SUFFIXES = ("_selection", "_report")  # the score that chooses a setting, and the one that judges it


def with_halves(name: str, values: Tensor, factor: float = 1.0) -> dict[str, float]:
    """Return the mean over all examples, and the means over the two halves, times `factor`.

    Args:
        name: the score's name. `name`_selection covers the 1st, 3rd, 5th ... example, `name`_report
            the others.
        values: [n], one per example in the order of the test set.
        factor: multiplies every mean.

    Raises:
        ValueError: fewer than two examples.
    """
    if len(values) < 2:
        raise ValueError(f"{name}: {len(values)} test example(s) have no two halves")
    parts = {"": values} | {suffix: values[first::2] for first, suffix in enumerate(SUFFIXES)}
    return {name + suffix: factor * part.double().sum().item() / len(part) for suffix, part in parts.items()}
