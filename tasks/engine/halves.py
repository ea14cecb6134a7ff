"""A score over all test examples, and over each half of them: the setting of a method can be chosen by one half and judged by the other."""

from torch import Tensor

SUFFIXES = ("_selection", "_report")  # of the score that chooses a setting, and of the one that judges it


def with_halves(name: str, values: Tensor, factor: float = 1.0) -> dict[str, float]:
    """factor times the mean of `values` [n], a value an example in the order of the test set, as `name`.

    As `name`_selection that of the 1st, 3rd, 5th ... example, as `name`_report that of the others. Raises ValueError for fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"{name}: {len(values)} test example(s) have no two halves")
    parts = {"": values} | {suffix: values[first::2] for first, suffix in enumerate(SUFFIXES)}
    return {name + suffix: factor * part.double().sum().item() / len(part) for suffix, part in parts.items()}
