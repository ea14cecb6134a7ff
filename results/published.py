"""Read the paper's numbers (results/published/*.yaml), keyed as our cells are."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from results.runs import label

FOLDER = Path(__file__).parent / "published"


@cache  # an artefact has many panels, and parsing YAML is slow
def published_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of published numbers. They are cached: don't change them."""
    rows: list[dict[str, Any]] = yaml.safe_load(path.read_text())["rows"]
    return rows


def published_cells(artefact: Mapping[str, Any], panel: Mapping[str, Any]) -> pd.DataFrame:
    """Return row, column, mean, std, seeds and diverged runs of one panel; empty if the paper prints
    no values.
    """
    path = FOLDER / f"{artefact['name']}.yaml"
    columns = ["row", "column", "mean", "std", "seeds", "diverged"]
    if not path.exists() or "published" not in panel:
        return pd.DataFrame(columns=columns)
    rows = []
    for published in published_rows(path):
        if all(published.get(key) == value for key, value in panel["published"].items()):
            mean, std, seeds = published["mean"], published.get("std"), published.get("seeds")
            row = panel.get(
                "published_row", published.get(artefact["row"])
            )  # the rows of a table with one learning rate don't print it
            rows.append([row, _column(published, panel), mean, std, seeds, int(published.get("diverged", False))])
    return pd.DataFrame(rows, columns=columns)


def _column(published: Mapping[str, Any], panel: Mapping[str, Any]) -> str:
    key = panel.get("published_column")
    if key is None:
        return ""
    unit = panel.get("published_column_unit")
    return label(published[key] / unit) + "x" if unit else label(published[key])
