"""Layouts: how an artefact's runs become a table and figures. One module each, with the same five functions."""

from collections.abc import Sequence
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure

from results.interactive import Chart
from results.layouts import budget, curves, dose, dynamics, heatmap, pairs, transfer, triggers
from results.runs import Run
from results.schema import Artefact
from results.table import Table


class Layout(Protocol):
    """Every function takes an artefact `at_scale`."""

    DRAWN_FROM_TABLE: bool
    """Whether `panels` needs only the table, and no runs."""

    def table(self, artefact: Artefact, runs: Sequence[Run], seeds: int) -> pd.DataFrame:
        """Return the content of table.csv. `seeds` is the number of seeds of the artefact's grids."""

    def tables(self, artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
        """Return the tables to show, the main one first. One of them may be `table` itself."""

    def facts(self, artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
        """Return facts to list above the table beside the common ones."""

    def figure(self, artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
        """Return the static figure, with words on the runs' data and a footer."""

    def panels(self, artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
        """Return the interactive figures. `table` may be read from table.csv, without runs."""


LAYOUTS: dict[str, Layout] = {
    "heatmap": heatmap,
    "curves": curves,
    "budget": budget,
    "pairs": pairs,
    "dynamics": dynamics,
    "dose": dose,
    "triggers": triggers,
    "transfer": transfer,
}


def layout_of(artefact: Artefact) -> Layout:
    """Return the layout of an artefact."""
    return LAYOUTS[artefact.layout]
