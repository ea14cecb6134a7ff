"""Tables as Markdown, and the texts of their cells."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table of an artefact's page, with a paragraph above and one below it, which may be empty.

    best: for each column whose best value LaTeX prints in bold, "higher" or "lower".
    groups: rows with equal groups compete for the best value. Empty: all rows do.
    """

    title: str
    rows: pd.DataFrame
    above: str = ""
    below: str = ""
    best: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[Hashable] = ()


def markdown(table: pd.DataFrame) -> str:
    """Return a pipe table with aligned columns."""
    rows = [
        ["" if pd.isna(v) else str(v).replace("|", "\\|") for v in row]
        for row in (table.columns, *table.itertuples(index=False))
    ]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(table.columns))]
    lines = ["| " + " | ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def spread(std: Any, digits: int = 2) -> str:
    """Return the " ± std" after a mean; empty for a single seed."""
    return f" ± {std:.{digits}f}" if pd.notna(std) else ""
