"""Compare two values of one option at the same seeds and learning rates: pairs, table and figure.

An artefact with this layout has `parts`, one per task, each with its own score.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.curves import COLOURS, first_step
from results.heatmap import power_of_ten
from results.runs import Run, flatten


def part_of(artefact: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Return the artefact's part for a task."""
    return next(part for part in artefact["parts"] if part["task"] == task)


def score(metric: Mapping[str, Any], run: Run) -> float:
    """Return the run's final metric, or with a `target` the time to reach it, in units of
    `x_unit_steps`.

    A run that diverged or never reached the target has the worst possible score, which is infinite.
    """
    higher = metric["better"] == "higher"
    if "target" in metric:
        step = first_step(run, metric["name"], metric["target"], higher)
        return math.inf if step is None else step / metric["x_unit_steps"]
    value = run.record["metrics"].get(metric["name"])
    return float(value) if value is not None else -math.inf if higher else math.inf


def pairs(artefact: Mapping[str, Any], part: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per (lr, seed): the two values' scores `first` and `second`, and second - first as
    `difference`.

    A score is missing if its run is missing. The difference is infinite if one score is. It is
    missing if both are infinite: two failed runs say nothing about the size of a difference.
    """
    key, sides = artefact["pair"]["key"], dict(zip(artefact["pair"]["values"], ("first", "second"), strict=True))
    rows = []
    for run in runs:
        config = flatten(run.config)
        if config["task.name"] == part["task"]:
            rows.append(
                {
                    "lr": config["lr"],
                    "seed": config["seed"],
                    "side": sides[config[key]],
                    "score": score(part["metric"], run),
                }
            )
    table = pd.DataFrame(rows, columns=["lr", "seed", "side", "score"]).pivot(
        index=["lr", "seed"], columns="side", values="score"
    )
    table = table.reindex(columns=["first", "second"]).sort_index().reset_index()
    return table.assign(difference=table["second"] - table["first"]).rename_axis(columns=None)


def every_pair(artefact: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return the pairs of all parts. The two values name the columns."""
    first, second = artefact["pair"]["values"]
    table = pd.concat(
        [pairs(artefact, part, runs).assign(task=part["task"]) for part in artefact["parts"]], ignore_index=True
    )
    return table[["task", "lr", "seed", "first", "second", "difference"]].rename(
        columns={"first": first, "second": second}
    )


def pair_table(artefact: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per part and learning rate: mean ± std over seeds of each value and of the difference."""
    first, second = artefact["pair"]["values"]
    rows = []
    for part in artefact["parts"]:
        for lr, of_lr in pairs(artefact, part, runs).groupby("lr"):
            sides = {first: of_lr["first"], second: of_lr["second"], f"{second} - {first}": of_lr["difference"]}
            written = {
                name: _mean_and_spread(values, name != first and name != second) for name, values in sides.items()
            }
            rows.append(
                {"task": part["title"], "score": part["metric"]["label"], "lr": power_of_ten(lr), "seeds": len(of_lr)}
                | written
            )
    return pd.DataFrame(rows, columns=["task", "score", "lr", "seeds", first, second, f"{second} - {first}"])


def _mean_and_spread(values: pd.Series, signed: bool) -> str:
    finite = values[values.abs() < math.inf]
    text = f"{finite.mean():{'+' if signed else ''}.2f}" if len(finite) else "-"
    text += f" ± {finite.std():.2f}" if len(finite) > 1 else ""
    return text + (f" ({len(values) - len(finite)} without)" if len(finite) < len(values) else "")


def pair_figure(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], footer: str) -> Figure:
    """Draw a panel per part and a point per pair: the first value's score on x, the second's on y.

    A band shows the margin around equality.
    """
    first, second = artefact["pair"]["values"]
    figure = Figure(figsize=(4.4 * len(artefact["parts"]), 5.0), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(artefact["parts"]), squeeze=False)[0], artefact["parts"], strict=True):
        table, margin = pairs(artefact, part, runs), part["margin"][scale]
        finite = table[table["difference"].abs() < math.inf]
        for colour, (lr, of_lr) in zip(COLOURS, finite.groupby("lr"), strict=False):
            axes.scatter(
                of_lr["first"], of_lr["second"], s=28, color=colour, alpha=0.6, lw=0, label=f"lr {power_of_ten(lr)}"
            )
        scores = pd.concat([finite["first"], finite["second"]])
        low, high = (scores.min() - margin, scores.max() + margin) if len(scores) else (0.0, 1.0)
        axes.plot([low, high], [low, high], color="black", lw=0.8)
        axes.fill_between(
            [low, high], [low - margin, high - margin], [low + margin, high + margin], color="#dddddd", lw=0, zorder=0
        )
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel=first, ylabel=second)
        hidden = f"; pairs not shown: {len(table) - len(finite)}" if len(finite) < len(table) else ""
        axes.set_title(f"{part['title']}\n{part['metric']['label']}, margin ± {margin:g}{hidden}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        if len(finite):
            axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(artefact["title"], fontsize=11)
    figure.supxlabel(footer, fontsize=7.5, color="#444444")
    return figure
