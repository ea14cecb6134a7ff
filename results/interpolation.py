"""Plot scores of interpolated models over the share of the second model.

They come from metrics such as wise_ft_0.0, wise_ft_0.1, ...
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.curves import COLOURS
from results.runs import Run, best_cell, frame, label, of_panel, panel_cells
from results.table import spread

DASHES = ("-", "--", ":")  # curves of methods that score alike overlap


def interpolated(artefact: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per share and run of the panels' best cells: method, setting, seed, share and
    value.

    The share follows <interpolation.name>_ in a metric's name. Empty without `interpolation`.
    """
    rows: list[dict[str, Any]] = []
    if "interpolation" in artefact:
        prefix, data = f"{artefact['interpolation']['name']}_", frame(runs, artefact["metric"]["name"])
        for panel in artefact["panels"]:
            for run, setting in of_best_cell(artefact, panel, data, runs):
                about = {"method": panel["title"], "setting": setting, "seed": run.config["seed"]}
                scores = {
                    float(name.removeprefix(prefix)): v
                    for name, v in run.record["metrics"].items()
                    if name.startswith(prefix)
                }
                rows += [about | {"share": share, "value": scores[share]} for share in sorted(scores)]
    return pd.DataFrame(rows, columns=["method", "setting", "seed", "share", "value"])


def of_best_cell(
    artefact: Mapping[str, Any], panel: Mapping[str, Any], data: pd.DataFrame, runs: Sequence[Run]
) -> list[tuple[Run, str]]:
    """Return the runs of a panel's best cell by seed, each with its column, or "-" without a column."""
    best = best_cell(panel_cells(artefact, panel, data), artefact["metric"]["better"])
    return [] if best is None else [(run, best["column"] or "-") for run in of_cell(artefact, panel, data, runs, best)]


def of_cell(
    artefact: Mapping[str, Any], panel: Mapping[str, Any], data: pd.DataFrame, runs: Sequence[Run], cell: pd.Series
) -> list[Run]:
    """Return the runs of a panel's cell, sorted by seed."""
    chosen, column = of_panel(data, panel), panel.get("column")
    chosen = chosen[chosen[artefact["row"]] == cell["row"]]
    ids = set((chosen[chosen[column].map(label) == cell["column"]] if column else chosen)["run_id"])
    return sorted((run for run in runs if run.record["run_id"] in ids), key=lambda run: run.config["seed"])


def interpolation_table(artefact: Mapping[str, Any], points: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method: mean ± std over seeds at every share, and the share with the best mean."""
    digits, rows = artefact["metric"].get("digits", 1), []
    for (method, setting), own in points.groupby(["method", "setting"], sort=False):
        of_share = own.groupby("share")["value"]
        means = of_share.mean()
        best = means.idxmax() if artefact["metric"]["better"] == "higher" else means.idxmin()
        cells = {
            f"{share:g}": f"{means[share]:.{digits}f}{spread(std, digits)}" for share, std in of_share.std().items()
        }
        rows.append({"method": method, "setting": setting} | cells | {"best": f"{means[best]:.{digits}f} at {best:g}"})
    return pd.DataFrame(rows)


def interpolation_figure(artefact: Mapping[str, Any], points: pd.DataFrame, footer: str) -> Figure:
    """Draw one colour and dash per method: its mean over seeds as a line, the seeds as dots side by side."""
    settings, metric = artefact["interpolation"], artefact["metric"]
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    methods = points.groupby(["method", "setting"], sort=False)
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(DASHES), methods)
    for number, (colour, dashes, ((method, setting), own)) in enumerate(looks):
        means, aside = own.groupby("share")["value"].mean(), 0.008 * (number - (len(methods) - 1) / 2)
        name = method if setting == "-" else f"{method}, {setting}"
        axes.plot(means.index, means, color=colour, ls=dashes, lw=1.8, label=name)
        axes.scatter(own["share"] + aside, own["value"], color=colour, s=9, alpha=0.6, linewidths=0)
    axes.set_xlabel(settings["x_label"])
    axes.set_ylabel(f"{metric['label']}, {metric['unit']}")
    axes.set_title(settings["title"], fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    figure.supxlabel(footer, fontsize=7.5, color="#444444")
    return figure
