"""Show scores over training for each method's best cell: curves, every run's last scores, and
pictures.

The curve shows the artefact's metric, or the score that `progress.scores` names for a scale. At
paper scale, whole cases take too long to evaluate often.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.curves import COLOURS
from results.interpolation import of_best_cell
from results.runs import Run, frame

MOST_PICTURES = 4  # per run: a fold of BraTS has 74 cases


def progress(artefact: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per evaluation of every run of the panels' best cells.

    The columns are method, setting, seed, step, the artefact's metric and the curve's metric.
    Metrics that begin with one of their names and "_" come too, such as dice_grey and dice_white.
    Empty without `progress`.
    """
    rows: list[dict[str, Any]] = []
    if "progress" in artefact:
        data = frame(runs, artefact["metric"]["name"])
        for panel in artefact["panels"]:
            for run, setting in of_best_cell(artefact, panel, data, runs):
                about = {"method": panel["title"], "setting": setting, "seed": run.config["seed"]}
                rows += [
                    about | {"step": row["step"]} | of_kind(artefact, row)
                    for row in run.metrics
                    if of_kind(artefact, row)
                ]
    return pd.DataFrame(rows, columns=None if rows else ["method", "setting", "seed", "step"])


def pictures(artefact: Mapping[str, Any], runs: Sequence[Run]) -> list[tuple[str, Path]]:
    """Return the name and file of the first few pictures from each panel's best cell.

    They come from the folder `progress.pictures` of the first seed's run. The name is the panel's
    id (or regularizer) and the file name, such as sgd_block_03.png. Empty if the artefact shows no
    pictures.
    """
    found: list[tuple[str, Path]] = []
    if where := artefact.get("progress", {}).get("pictures"):
        data = frame(runs, artefact["metric"]["name"])
        for panel in artefact["panels"]:
            best = [run for run, _ in of_best_cell(artefact, panel, data, runs)]
            first = min(best, key=lambda run: run.config["seed"], default=None)
            if first is not None and first.folder is not None:
                prefix = panel.get("id", panel["regularizer"])
                found += [
                    (f"{prefix}_{path.name}", path)
                    for path in sorted((first.folder / where).glob("*.png"))[:MOST_PICTURES]
                ]
    return found


def of_kind(artefact: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the artefact's metric, the curve's metric and their parts."""
    names = (artefact["metric"]["name"], curve_of(artefact)["name"])
    return {
        key: value
        for key, value in metrics.items()
        if key in names or key.startswith(tuple(f"{name}_" for name in names))
    }


def curve_of(artefact: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return name, label and unit of the metric shown over training, for an artefact `at_scale`."""
    return artefact["metric"] | artefact["progress"].get("score", {})


def progress_table(artefact: Mapping[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: mean ± std of each metric at the last evaluation, and the curve's rise
    since the one before.
    """
    name, digits, lines = curve_of(artefact)["name"], artefact["metric"].get("digits", 1), []
    names = [column for column in rows if column not in ("method", "setting", "seed", "step")]
    for (method, setting), own in rows.groupby(["method", "setting"], sort=False):
        *before, last = (part for _, part in own.groupby("step"))
        cells = {
            key: f"{last[key].mean():.{digits}f} ± {last[key].std():.{digits}f}"
            for key in names
            if last[key].notna().any()
        }
        rise = f"{last[name].mean() - before[-1][name].mean():+.{digits}f}" if before else "-"
        lines.append({"method": method, "setting": setting} | cells | {"since the evaluation before": rise})
    return pd.DataFrame(lines)


def progress_figure(artefact: Mapping[str, Any], rows: pd.DataFrame, footer: str) -> Figure:
    """Draw one colour per method: the mean over its runs as a thick line, each run as a thin one."""
    settings, metric = artefact["progress"], curve_of(artefact)
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    colours = itertools.cycle(COLOURS)
    for (method, setting), own in rows.groupby(["method", "setting"], sort=False):
        colour, means = next(colours), own.groupby("step")[metric["name"]].mean()
        for _, of_run in own.groupby("seed"):
            axes.plot(of_run["step"], of_run[metric["name"]], color=colour, lw=0.7, alpha=0.4)
        axes.plot(
            means.index,
            means,
            color=colour,
            lw=2.0,
            marker=".",
            label=method if setting == "-" else f"{method}, {setting}",
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"{metric['label']}, {metric['unit']}")
    axes.set_title(settings["title"], fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    figure.supxlabel(footer, fontsize=7.5, color="#444444")
    return figure
