"""`layout: pairs`: two values of one option at the same seeds and learning rates.

The artefact has `parts`, one per task, each with its own score.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import LEVEL, Chart, escaped
from results.runs import Run, flatten, power_of_ten
from results.schema import Artefact, Part, PartMetric
from results.series import first_step
from results.table import Table
from results.ticks import lr_math

DRAWN_FROM_TABLE = True


def score(metric: PartMetric, run: Run) -> float:
    """Return the run's final metric, or with a `target` the time to reach it, in units of
    `x_unit_steps`.

    A run that diverged or never reached the target has the worst possible score, which is infinite.
    """
    if metric.target is not None:
        step = first_step(run, metric.name, metric.target, metric.higher)
        return math.inf if step is None else step / (metric.x_unit_steps or 1)
    value = run.scores.get(metric.name)
    return float(value) if value is not None else -math.inf if metric.higher else math.inf


def pairs(artefact: Artefact, part: Part, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per (lr, seed): the two values' scores `first` and `second`, and second - first as
    `difference`.

    A score is missing if its run is missing. The difference is infinite if one score is. It is
    missing if both are infinite: two failed runs say nothing about the size of a difference.
    """
    first, second = artefact.pair.values
    sides, rows = {first: "first", second: "second"}, []
    for run in runs:
        if run.task == part.task:
            config = flatten(run.config)
            rows.append((config["lr"], run.seed, sides[config[artefact.pair.key]], score(part.metric, run)))
    made = pd.DataFrame(rows, columns=["lr", "seed", "side", "score"]).pivot(
        index=["lr", "seed"], columns="side", values="score"
    )
    made = made.reindex(columns=["first", "second"]).sort_index().reset_index()
    return made.assign(difference=made["second"] - made["first"]).rename_axis(columns=None)


def table(artefact: Artefact, runs: Sequence[Run], seeds: int) -> pd.DataFrame:
    """Return the pairs of all parts. The two values name the columns."""
    first, second = artefact.pair.values
    every = pd.concat(
        [pairs(artefact, part, runs).assign(task=part.task) for part in artefact.parts], ignore_index=True
    )
    return every[["task", "lr", "seed", "first", "second", "difference"]].rename(
        columns={"first": first, "second": second}
    )


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the means over seeds, and every pair."""
    return [Table("Means over seeds", mean_table(artefact, table)), Table("Every pair", table)]


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return nothing: the common facts say all."""
    return {}


def mean_table(artefact: Artefact, table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per part and learning rate: mean ± std over seeds of each value and of the difference."""
    first, second = artefact.pair.values
    signed, rows = f"{second} - {first}", []
    for part in artefact.parts:
        for lr, own in table[table["task"] == part.task].groupby("lr"):
            about: dict[Any, Any] = {
                "task": part.title,
                "score": part.metric.label,
                "lr": power_of_ten(lr),
                "seeds": len(own),
            }
            means = {first: _mean(own[first]), second: _mean(own[second]), signed: _mean(own["difference"], "+")}
            rows.append(about | means)
    return pd.DataFrame(rows, columns=["task", "score", "lr", "seeds", first, second, signed])


def _mean(values: pd.Series, sign: str = "") -> str:
    finite = values[values.abs() < math.inf]
    text = f"{finite.mean():{sign}.2f}" if len(finite) else "-"
    text += f" ± {finite.std():.2f}" if len(finite) > 1 else ""
    return text + (f" ({len(values) - len(finite)} without)" if len(finite) < len(values) else "")


def finite(artefact: Artefact, part: Part, table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the pairs of a part that have two finite scores, and the number of the others."""
    own = table[table["task"] == part.task].astype(dict.fromkeys(artefact.pair.values, float))
    shown = own[own["difference"].abs() < math.inf]
    return shown, len(own) - len(shown)


def by_lr(shown: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Yield a colour, a learning rate and its pairs."""
    for colour, (lr, own) in zip(COLOURS, shown.groupby("lr"), strict=False):
        yield colour, lr, own


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw a panel per part and a point per pair: the first value's score on x, the second's on y."""
    first, second = artefact.pair.values
    made = Figure(figsize=(5.2 * len(artefact.parts), 5.0), layout="constrained")
    every = made.subplots(1, len(artefact.parts), squeeze=False)[0]
    for axes, part in zip(every, artefact.parts, strict=True):
        shown, others = finite(artefact, part, table)
        for colour, lr, own in by_lr(shown):
            axes.scatter(own[first], own[second], s=28, color=colour, alpha=0.6, lw=0, label=f"lr {lr_math(lr)}")
        scores = pd.concat([shown[first], shown[second]])
        low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
        low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
        axes.plot([low, high], [low, high], color="black", lw=0.8)
        said = part.metric.label
        axes.set(
            xlim=(low, high), ylim=(low, high), aspect="equal", xlabel=f"{said}: {first}", ylabel=f"{said}: {second}"
        )
        hidden = f"; pairs not shown: {others}" if others else ""
        axes.set_title(f"{part.title}{hidden}", fontsize=9)
        open_axes(axes)
        if len(shown):
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    title(made, artefact, data)
    footer(made, f"{foot}. A point is a pair of runs. Line: equal scores")
    return made


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return a chart per part with a point per pair: the first value's score on x, the second's on y.

    Args:
        table: computed, or read from table.csv.
    """
    first, second = artefact.pair.values
    of_pair: dict[tuple[str, float, int], list[str]] = {}
    for run in runs:
        of_pair.setdefault((run.task, run.config["lr"], run.seed), []).append(run.run_id)
    charts = []
    for part in artefact.parts:
        shown, others = finite(artefact, part, table)
        if shown.empty:
            continue
        traces, legend = [], []
        for colour, lr, own in by_lr(shown):
            ids = [" ".join(of_pair.get((part.task, lr, seed), [])) for seed in own["seed"]]
            said = [
                f"lr {power_of_ten(lr)}, seed {seed}<br>{escaped(names).replace(' ', '<br>')}"
                for seed, names in zip(own["seed"], ids, strict=True)
            ]
            text = f"%{{hovertext}}<br>{escaped(first)} %{{x:.4g}}, {escaped(second)} %{{y:.4g}}<extra></extra>"
            traces.append(
                go.Scatter(
                    x=own[first].tolist(),
                    y=own[second].tolist(),
                    mode="markers",
                    marker={"color": colour, "size": 9, "opacity": 0.75},
                    customdata=ids,
                    hovertext=said,
                    hovertemplate=text,
                )
            )
            legend.append((colour, f"lr {power_of_ten(lr)}"))
        made = interactive.figure(
            traces,
            shapes=[_equality(shown[[first, second]])],
            xaxis={"title": {"text": first}},
            yaxis={"title": {"text": second}},
        )
        hidden = f"; {others} pair(s) not shown" if others else ""
        title = f"{part.title}: {part.metric.label}{hidden}"
        charts.append(Chart(made, title, 500, 420, legend=tuple(legend)))
    return charts


def _equality(shown: pd.DataFrame) -> dict[str, Any]:
    low, high = shown.min().min(), shown.max().max()
    return {"type": "line", "x0": low, "x1": high, "y0": low, "y1": high, "line": {"color": LEVEL, "width": 1}}
