"""Plot scores of interpolated models over the share of the second model.

They come from metrics such as wise_ft_0.0, wise_ft_0.1, ...
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from results import interactive
from results.figures import BestCell, best_cells, draw, footer, open_axes, title
from results.files import write
from results.interactive import Chart, escaped
from results.line_labels import LineEnd, name_lines
from results.runs import Run, data_of, frame, of_best_cell
from results.schema import Artefact
from results.table import markdown, spread
from results.ticks import typeset

DASHES = ("-", "--", ":")  # curves of methods that score alike overlap


def interpolated(artefact: Artefact, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per share and run of the panels' best cells: method, setting, seed, share and
    value.

    The share follows <interpolation.name>_ in a metric's name. Empty without `interpolation`.
    """
    rows: list[dict[str, Any]] = []
    if artefact.interpolation is not None:
        prefix, data = f"{artefact.interpolation.name}_", frame(runs, artefact.metric.name)
        for panel in artefact.panels:
            for run, setting in of_best_cell(artefact, panel, data, runs):
                about = {"method": panel.title, "setting": setting, "seed": run.seed}
                scores = {
                    float(name.removeprefix(prefix)): v for name, v in run.scores.items() if name.startswith(prefix)
                }
                rows += [about | {"share": share, "value": scores[share]} for share in sorted(scores)]
    return pd.DataFrame(rows, columns=["method", "setting", "seed", "share", "value"])


def files(artefact: Artefact, runs: Sequence[Run], out_dir: Path, foot: str) -> tuple[str, list[Path]]:
    """Write <interpolation.name>.csv, .png and .svg. Return the page's section on them, or nothing
    without such scores.
    """
    points, settings = interpolated(artefact, runs), artefact.interpolation
    if points.empty or settings is None:
        return "", []
    name = settings.name
    csv = write(out_dir / f"{name}.csv", points.to_csv(index=False))
    about = f"{artefact.metric.label}, mean over seeds, of every method's best cell."
    lines = ["", f"## {settings.title}", "", f"{about} {settings.note}", "", f"![{name}]({name}.png)", ""]
    text = "\n".join([*lines, markdown(interpolation_table(artefact, points)), ""])
    return text, [csv, *draw(interpolation_figure(artefact, points, data_of(runs), foot), out_dir, name)]


def _means(cell: BestCell) -> pd.Series:
    return cell.rows.groupby("share")["value"].mean()


def interpolation_table(artefact: Artefact, points: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: mean ± std over seeds at every share, and the share with the best mean."""
    digits, rows = artefact.metric.digits, []
    for cell in best_cells(points):
        means, deviations = _means(cell), cell.rows.groupby("share")["value"].std()
        best = means.idxmax() if artefact.metric.higher else means.idxmin()
        cells = {f"{share:g}": f"{means[share]:.{digits}f}{spread(std, digits)}" for share, std in deviations.items()}
        about = {"method": cell.method, "setting": cell.setting}
        rows.append(about | cells | {"best": f"{means[best]:.{digits}f} at {best:g}"})
    return pd.DataFrame(rows)


def interpolation_figure(artefact: Artefact, points: pd.DataFrame, data: str, foot: str) -> Figure:
    """Draw one colour and dash per method: its mean over seeds as a line, the seeds as dots side by side."""
    assert artefact.interpolation is not None
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    axes, every, ends = figure.subplots(), list(best_cells(points)), []
    for number, (dashes, cell) in enumerate(zip(itertools.cycle(DASHES), every, strict=False)):
        means, aside = _means(cell), 0.008 * (number - (len(every) - 1) / 2)
        axes.plot(means.index, means, color=cell.colour, ls=dashes, lw=1.8)
        ends.append(LineEnd(means.index[-1], means.iloc[-1], typeset(cell.name), cell.colour))
        rows = cell.rows
        axes.scatter(rows["share"] + aside, rows["value"], color=cell.colour, s=9, alpha=0.6, linewidths=0)
    axes.set_xlabel(artefact.interpolation.x_label)
    axes.set_ylabel(artefact.metric.label_and_unit)
    open_axes(axes)
    title(figure, artefact, data, artefact.interpolation.title)
    footer(figure, f"{foot}. Lines: means over seeds. Dots: seeds")
    name_lines(figure, axes, ends)
    return figure


def interpolation_panels(artefact: Artefact, points: pd.DataFrame) -> list[Chart]:
    """Return a line per method: its mean over seeds at every share of the second model."""
    assert artefact.interpolation is not None
    traces, legend = [], []
    for cell in best_cells(points):
        means = _means(cell)
        legend.append((cell.colour, cell.name))
        traces.append(
            go.Scatter(
                x=means.index.tolist(),
                y=means.tolist(),
                mode="lines+markers",
                line={"color": cell.colour},
                hovertemplate=f"{escaped(cell.name)}<br>share %{{x:g}}: %{{y:.4g}}<extra></extra>",
            )
        )
    made = interactive.figure(
        traces,
        xaxis={"title": {"text": artefact.interpolation.x_label}},
        yaxis={"title": {"text": artefact.metric.label}},
    )
    return [Chart(made, artefact.interpolation.title, 760, 340, legend=tuple(legend))] if traces else []
