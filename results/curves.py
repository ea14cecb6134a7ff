"""Draw curves over training, and find when each method reached a target."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.runs import Run, flatten

COLOURS = (
    "#0072B2",
    "#56B4E9",
    "#999999",
    "#D55E00",
    "#E69F00",
    "#009E73",
    "#CC79A7",
)  # Okabe and Ito: safe for colour-blind readers
STYLES: tuple[dict[str, Any], ...] = ({"lw": 2.2}, {"lw": 1.2, "ls": ":"})


def runs_of(method: Mapping[str, Any], runs: Sequence[Run]) -> list[Run]:
    """Return the runs of one method, sorted by seed."""
    chosen = []
    for run in runs:
        config = flatten(run.config)
        if config["regularizer.name"] == method["regularizer"] and all(
            config.get(k) == v for k, v in method["select"].items()
        ):
            chosen.append(run)
    return sorted(chosen, key=lambda run: run.config["seed"])


def series(run: Run, name: str) -> tuple[list[int], list[float]]:
    """Return the steps and values of one metric of a run."""
    rows = [row for row in run.metrics if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def first_step(run: Run, name: str, target: float, higher: bool) -> int | None:
    """Return the first evaluated step at which the metric is at the target or better, or None."""
    return first_at(*series(run, name), target, higher)


def first_at(steps: Sequence[int], values: Sequence[float], target: float, higher: bool) -> int | None:
    """Return the first step with a value at the target or better, or None."""
    return next(
        (step for step, value in zip(steps, values, strict=True) if (value >= target if higher else value <= target)),
        None,
    )


def series_over(runs: Sequence[Run], name: str, how: str) -> tuple[list[int], list[float]]:
    """Return the "mean" or "median" `series` over runs, at the steps at which all of them were evaluated."""
    table = pd.DataFrame([dict(zip(*series(run, name), strict=True)) for run in runs], dtype=float)
    values = table.dropna(axis=1).agg(how).sort_index()
    return [int(step) for step in values.index], values.to_list()


def first_step_at(
    artefact: Mapping[str, Any], method: Mapping[str, Any], runs: Sequence[Run], name: str | None = None
) -> dict[int, Any]:
    """Return the method's `first_step` to the artefact's target, by seed."""
    name, target = name or artefact["metric"]["name"], artefact["curves"]["target"]
    higher = artefact["metric"]["better"] == "higher"
    return {run.config["seed"]: first_step(run, name, target, higher) for run in runs_of(method, runs)}


def curve_table(artefact: Mapping[str, Any], runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per method: when it reached the target in each metric, and its final scores."""
    target, unit = artefact["curves"]["target"], artefact["curves"]["x_unit_steps"]
    rows = []
    for method in artefact["methods"]:
        chosen = runs_of(method, runs)
        row: dict[str, Any] = {"method": method["title"], "seeds": len(chosen)}
        for name in artefact["curves"]["y"]:
            words = name.replace("_", " ")
            reached = list(first_step_at(artefact, method, runs, name).values())
            when = [f"{step / unit:g}" for step in reached if step is not None]
            if None in reached:
                seeds = f" in {reached.count(None)} of {len(reached)} seeds" if len(reached) > 1 else ""
                when.append(f"not within {chosen[0].config['num_steps'] / unit:g}{seeds}")
            row[f"{artefact['curves']['x_label']} of {target:g} % {words}"] = ", ".join(when)
            final = pd.Series(
                [run.record["metrics"][name] for run in chosen if name in run.record["metrics"]], dtype=float
            )
            spread = f" ± {final.std():.2f}" if len(final) > 1 else ""
            spread += f" ({len(chosen) - len(final)} diverged)" if len(final) < len(chosen) else ""
            row[f"final {words}"] = f"{final.mean():.2f}{spread}" if len(final) else "diverged" if chosen else "missing"
        rows.append(row)
    return pd.DataFrame(rows)


def curve_figure(artefact: Mapping[str, Any], runs: Sequence[Run], footer: str) -> Figure:
    """Draw one colour per method: the first metric's median over seeds, each seed as a thin line.

    The second metric's median is dotted.
    """
    settings = artefact["curves"]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for colour, method in zip(itertools.cycle(COLOURS), artefact["methods"], strict=False):
        chosen = runs_of(method, runs)
        if not chosen:
            continue
        lines = [
            (series_over(chosen, name, "median"), style) for name, style in zip(settings["y"], STYLES, strict=False)
        ]
        if len(chosen) > 1:
            lines += [(series(run, settings["y"][0]), {"lw": 0.8, "alpha": 0.5}) for run in chosen]
        for number, ((steps, values), style) in enumerate(lines):
            title = method["title"] if number == 0 else None
            axes.plot([step / settings["x_unit_steps"] for step in steps], values, color=colour, label=title, **style)
    axes.axhline(settings["target"], color="black", lw=0.8, ls="--")
    axes.annotate(
        f"{settings['target']:g} %",
        (0.995, settings["target"]),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
    )
    axes.set_xlabel(settings["x_label"])
    axes.set_ylabel(f"{artefact['metric']['label']} (solid), training (dotted), {artefact['metric']['unit']}")
    axes.set_title(artefact["title"], fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(
            loc="outside right center", frameon=False, fontsize=9, title="thick: median over seeds", title_fontsize=9
        )
    figure.supxlabel(footer, fontsize=7.5, color="#444444")
    return figure
