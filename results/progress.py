"""Show scores over training for each method's best cell: curves, every run's last scores, and
pictures.

The curve shows the artefact's metric, or the score that `progress.scores` names for a scale. At
paper scale, whole cases take too long to evaluate often.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from results import interactive
from results.figures import BestCell, best_cells, draw, footer, open_axes, title
from results.files import write
from results.interactive import Chart, escaped, thinned
from results.line_labels import LineEnd, name_lines
from results.runs import Run, data_of, frame, of_best_cell
from results.schema import Artefact, Metric, Panel, ProgressScore
from results.table import markdown
from results.ticks import typeset

MOST_PICTURES = 4  # per run: a fold of BraTS has 74 cases
KEYS = ["method", "setting", "seed", "step"]


def progress(artefact: Artefact, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per evaluation of every run of the panels' best cells.

    The columns are method, setting, seed, step, the artefact's metric and the curve's metric.
    Metrics that begin with one of their names and "_" come too, such as dice_grey and dice_white.
    Empty without `progress`.
    """
    rows: list[dict[str, Any]] = []
    if artefact.progress is not None:
        data = frame(runs, artefact.metric.name)
        for panel in artefact.panels:
            for run, setting in of_best_cell(artefact, panel, data, runs):
                about = {"method": panel.title, "setting": setting, "seed": run.seed}
                rows += [about | {"step": row["step"]} | own for row in run.metrics if (own := _of_kind(artefact, row))]
    return pd.DataFrame(rows, columns=None if rows else KEYS)


def pictures(artefact: Artefact, runs: Sequence[Run], folder: Path) -> list[tuple[str, Path]]:
    """Return the name and file of the first few pictures from each panel's best cell.

    They come from the folder `progress.pictures` of the first seed's run. The name is the panel's
    name and the file name, such as sgd_block_03.png. A committed record has no pictures, so those stay that
    were written into the artefact's `folder`. Empty if the artefact shows no pictures.
    """
    found: list[tuple[str, Path]] = []
    if artefact.progress is not None:
        data = frame(runs, artefact.metric.name)
        for panel in artefact.panels:
            first = next((run for run, _ in of_best_cell(artefact, panel, data, runs)), None)
            if first is not None and first.folder is not None:
                paths = sorted((first.folder / artefact.progress.pictures).glob("*.png"))[:MOST_PICTURES]
                found += [(f"{panel.name}_{path.name}", path) for path in paths]
            elif first is not None:
                found += [(path.name, path) for path in _written(artefact, panel, folder)]
    return found


def _written(artefact: Artefact, panel: Panel, folder: Path) -> list[Path]:
    """Return a panel's pictures in an artefact's folder."""
    assert artefact.progress is not None
    names = [one.name for one in artefact.panels]
    every = sorted((folder / artefact.progress.pictures).glob("*.png"))
    return [  # sgd_cpr_block_03.png is not sgd's
        path
        for path in every
        if max((name for name in names if path.name.startswith(f"{name}_")), key=len, default="") == panel.name
    ]


def _of_kind(artefact: Artefact, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the artefact's metric, the curve's metric and their parts."""
    names = (artefact.metric.name, curve_of(artefact).name)
    parts = tuple(f"{name}_" for name in names)
    return {key: value for key, value in metrics.items() if key in names or key.startswith(parts)}


def curve_of(artefact: Artefact) -> Metric | ProgressScore:
    """Return the metric shown over training, for an artefact `at_scale` with `progress`."""
    assert artefact.progress is not None
    return artefact.progress.scores.get(artefact.scale, artefact.metric)


def files(artefact: Artefact, runs: Sequence[Run], out_dir: Path, foot: str) -> tuple[str, list[Path]]:
    """Write progress.csv, .png, .svg and pictures. Return the page's section on them, or nothing
    without the artefact's `progress`.
    """
    rows, settings = progress(artefact, runs), artefact.progress
    if rows.empty or settings is None:
        return "", []
    made = [
        write(out_dir / "progress.csv", rows.to_csv(index=False)),
        *draw(progress_figure(artefact, rows, data_of(runs), foot), out_dir, "progress"),
    ]
    about = f"Of every method's best cell; thin lines are runs, thick ones their mean. {settings.note}"
    lines = ["", f"## {settings.title}", "", about, "", "![progress](progress.png)", ""]
    lines += [markdown(progress_table(artefact, rows)), ""]
    if drawn := pictures(artefact, runs, out_dir):
        folder = out_dir / settings.pictures
        folder.mkdir(exist_ok=True)
        made += [write(folder / name, path.read_bytes()) for name, path in drawn]
        lines += [settings.pictures_note, ""]
        for name, _ in drawn:
            lines += [f"{name.removesuffix('.png')}:", "", f"![{name}]({folder.name}/{name})", ""]
    return "\n".join(lines), made


def _lines(artefact: Artefact, cell: BestCell) -> tuple[dict[int, pd.Series], pd.Series]:
    """Return the curve's metric over the steps: of each run by seed, and the mean."""
    metric = curve_of(artefact).name
    runs = {seed: own.set_index("step")[metric] for seed, own in cell.rows.groupby("seed")}
    return runs, cell.rows.groupby("step")[metric].mean()


def progress_table(artefact: Artefact, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: mean ± std of each metric at the last evaluation, and the curve's rise
    since the one before.
    """
    name, digits, lines = curve_of(artefact).name, artefact.metric.digits, []
    names = [column for column in rows if column not in KEYS]
    for cell in best_cells(rows):
        *before, last = (part for _, part in cell.rows.groupby("step"))
        cells = {
            key: f"{last[key].mean():.{digits}f} ± {last[key].std():.{digits}f}"
            for key in names
            if last[key].notna().any()
        }
        rise = f"{last[name].mean() - before[-1][name].mean():+.{digits}f}" if before else "-"
        lines.append({"method": cell.method, "setting": cell.setting} | cells | {"since the evaluation before": rise})
    return pd.DataFrame(lines)


def progress_figure(artefact: Artefact, rows: pd.DataFrame, data: str, foot: str) -> Figure:
    """Draw one colour per method: the mean over its runs as a thick line, each run as a thin one."""
    assert artefact.progress is not None
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes, ends = figure.subplots(), []
    for cell in best_cells(rows):
        runs, mean = _lines(artefact, cell)
        for run in runs.values():
            axes.plot(run.index, run, color=cell.colour, lw=0.7, alpha=0.4)
        axes.plot(mean.index, mean, color=cell.colour, lw=2.0, marker=".")
        ends.append(LineEnd(mean.index[-1], mean.iloc[-1], typeset(cell.name), cell.colour))
    axes.set_xlabel("step")
    axes.set_ylabel(f"{curve_of(artefact).label}, {artefact.metric.unit}")
    open_axes(axes)
    title(figure, artefact, data, artefact.progress.title)
    footer(figure, f"{foot}. Thick: means over runs")
    name_lines(figure, axes, ends)
    return figure


def progress_panels(artefact: Artefact, rows: pd.DataFrame) -> list[Chart]:
    """Return one chart for the best cells: a colour per method, its mean over runs thick, each run thin."""
    assert artefact.progress is not None
    traces, legend = [], []
    for cell in best_cells(rows.dropna(subset=curve_of(artefact).name)):
        runs, mean = _lines(artefact, cell)
        legend.append((cell.colour, cell.name))
        lines = [(f"seed {seed}", 0.7, run) for seed, run in runs.items()]
        for who, width, values in (*lines, ("mean", 2.4, mean)):
            text = f"<b>{escaped(cell.name)}</b>, {who}<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
            x, y = thinned(list(map(int, values.index)), values.to_list())
            look = {"color": cell.colour, "width": width}
            traces.append(go.Scatter(x=x, y=y, mode="lines", line=look, hovertemplate=text))
    label = f"{curve_of(artefact).label}, {artefact.metric.unit}"
    made = interactive.figure(traces, xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": label}})
    return [Chart(made, f"{artefact.progress.title}, best cells", 760, 340, legend=tuple(legend))] if traces else []
