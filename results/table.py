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
    rows = [["" if pd.isna(v) else str(v) for v in row] for row in table.itertuples(index=False)]
    return pipe_table([str(name) for name in table.columns], rows, aligned=True)


def pipe_table(columns: Sequence[str], rows: Sequence[Sequence[str]], aligned: bool = False) -> str:
    """Return rows of cells as a Markdown table. `aligned` fills its cells with spaces to the width of their column."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) if aligned else 0 for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    dashes = ["-" * (width + 2) if aligned else " --- " for width in widths]
    return "\n".join([lines[0], f"|{'|'.join(dashes)}|", *lines[1:]])


def spread(std: Any, digits: int = 2) -> str:
    """Return the " ± std" after a mean; empty for a single seed."""
    return f" ± {std:.{digits}f}" if pd.notna(std) else ""
