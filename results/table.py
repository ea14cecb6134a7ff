"""Tables as Markdown and LaTeX, and the texts of their cells."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

SYMBOLS = str.maketrans({"±": r"$\pm$", "α": r"$\alpha$", "κ": r"$\kappa$", "λ": r"$\lambda$", "μ": r"$\mu$"})


@dataclass(frozen=True)
class Table:
    """A table of an artefact's page, with a paragraph above and one below it, which may be empty."""

    title: str
    rows: pd.DataFrame
    above: str = ""
    below: str = ""


def markdown(table: pd.DataFrame) -> str:
    """Return a pipe table with aligned columns."""
    rows = [
        ["" if pd.isna(v) else str(v).replace("|", "\\|") for v in row]
        for row in (table.columns, *table.itertuples(index=False))
    ]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(table.columns))]
    lines = ["| " + " | ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def latex(table: pd.DataFrame, caption: str) -> str:
    """Return a booktabs table in ASCII. Special characters are escaped."""
    text = table.to_latex(index=False, escape=True, caption=re.sub(r"([&%$#_{}])", r"\\\1", caption), na_rep="-")
    return text.translate(SYMBOLS)


def spread(std: Any, digits: int = 2) -> str:
    """Return the " ± std" after a mean; empty for a single seed."""
    return f" ± {std:.{digits}f}" if pd.notna(std) else ""
