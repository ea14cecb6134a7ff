"""`layout: triggers`: when each matrix's κ is set, in multiples of the lr warm-up, one row per method."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import Chart
from results.runs import Run
from results.schema import Artefact
from results.series import bound_set, runs_of
from results.table import Table

DRAWN_FROM_TABLE = True


def table(artefact: Artefact, runs: Sequence[Run], seeds: int = 0) -> pd.DataFrame:
    """Return a row per run and matrix: the first logged step with a κ, which is missing if there is none."""
    rows = []
    for method in artefact.methods:
        for run in runs_of(method, runs):
            warmup = run.config["task"]["schedule"]["warmup_steps"]
            for matrix in run.dynamics[0]["matrices"] if len(run.dynamics) else ():
                step = bound_set(run, matrix)
                rows.append((method.title, run.seed, matrix, step, None if step is None else step / warmup))
    made = pd.DataFrame(rows, columns=["method", "seed", "matrix", "step", "warm-ups"])
    return made.astype({"step": "Int64", "warm-ups": float})


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the quartiles over matrices and seeds of each method, and every matrix."""
    rows: list[dict[str, Any]] = []
    for method, own in table.groupby("method", sort=False):
        found = own["warm-ups"].dropna()
        low, middle, high = found.quantile([0.25, 0.5, 0.75]) if len(found) else [float("nan")] * 3
        rows.append(
            {
                "method": method,
                "seeds": own["seed"].nunique(),
                "matrices with κ": f"{len(found)} of {len(own)}",
                "median": f"{middle:.2f}",
                "quartiles": f"{low:.2f} to {high:.2f}",
            }
        )
    above = f"When κ is set, in multiples of the lr warm-up. The paper: {artefact.triggers.published:.2f}."
    return [Table("When κ is set", pd.DataFrame(rows), above), Table("Every matrix", table)]


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return nothing: the common facts say all."""
    return {}


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw a row of dots per method, one dot per matrix and seed. A dashed line marks the paper's median."""
    titles = [method.title for method in artefact.methods]
    made = Figure(figsize=(7.2, 1.8 + 0.42 * len(titles)), layout="constrained")
    axes = made.subplots()
    for place, method in enumerate(titles):
        own = table[table["method"] == method]
        offsets = own.groupby("warm-ups").cumcount() * 0.05 - 0.2
        axes.scatter(own["warm-ups"], place + offsets, s=18, color=COLOURS[0], alpha=0.6, lw=0)
    axes.axvline(artefact.triggers.published, color="black", lw=0.9, ls="--")
    axes.set_yticks(range(len(titles)), titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("when κ is set, in multiples of the lr warm-up (dashed: the paper)", fontsize=9)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=8)
    open_axes(axes)
    title(made, artefact, data)
    footer(made, foot)
    return made


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return one chart with a box per method."""
    if table.empty:
        return []
    traces = [
        go.Box(
            x=own["warm-ups"].tolist(),
            name=str(title),
            boxpoints="all",
            orientation="h",
            marker={"color": COLOURS[0]},
            hovertemplate="<b>%{y}</b>: %{x:.3g} lr warm-ups<extra></extra>",
        )
        for title, own in table.groupby("method", sort=False)
    ]
    made = interactive.figure(traces, xaxis={"title": {"text": "lr warm-ups until κ is set"}})  # type: ignore[arg-type]
    return [Chart(made, artefact.title, 700, 120 + 40 * len(traces))]
