"""`layout: dose`: a method's distance to another's best setting, over how far its matrices had grown when bounded.

Runs that differ in their schedule are compared within their schedule alone. The artefact's `dose` names
the reference method.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import Chart, escaped, level, run_line
from results.regime import measured, schedule_of
from results.runs import Run, chosen_and_reported
from results.schema import Artefact
from results.series import runs_of
from results.settings import best_setting
from results.table import Table, spread

DRAWN_FROM_TABLE = False
MARKERS = "os^Dv"
NUMBERS = ("bound", "grown", "score", "reference", "difference")


def table(artefact: Artefact, runs: Sequence[Run], seeds: int = 0) -> pd.DataFrame:
    """Return a row per bounded run: its κ/R(0), its score, and its distance to the reference at the same seed.

    The reference's setting is its best one of the same schedule. It is chosen by one half of the test
    examples, and scores are on the other half.
    """
    chosen_by, reported = chosen_and_reported(artefact.metric.name, runs)
    reference = next(method for method in artefact.methods if method.title == artefact.dose.reference)
    rows: list[tuple[Any, ...]] = []
    for schedule, own in _by_schedule(runs).items():
        best = {run.seed: run for run in best_setting(runs_of(reference, own), chosen_by, artefact.metric.higher)}
        for method in artefact.methods:
            for run in runs_of(method, own) if method != reference else ():
                sizes, score = measured(run), run.scores.get(reported, math.nan)
                beside = best[run.seed].scores.get(reported, math.nan) if run.seed in best else math.nan
                grown = measured(best[run.seed]) if run.seed in best else None
                about = (schedule, run.num_steps, method.title, run.seed)
                rows.append(
                    (
                        *about,
                        sizes and sizes.bound,
                        grown and grown.grown,
                        score,
                        beside,
                        score - beside,
                    )
                )
    made = with_numbers(pd.DataFrame(rows, columns=["schedule", "steps", "method", "seed", *NUMBERS]))
    return made.sort_values(["steps", "method", "seed"], ignore_index=True)


def with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with NUMBERS as floats. A table that was read from table.csv has texts."""
    return table.assign(**{name: pd.to_numeric(table[name]) for name in NUMBERS})


def _by_schedule(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.num_steps):
        found.setdefault(schedule_of(run), []).append(run)
    return found


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return the means over seeds, and every run."""
    metric, digits = artefact.metric, artefact.metric.table_digits
    rows = []
    for (schedule, method), own in with_numbers(table).groupby(["schedule", "method"], sort=False):
        rows.append(
            {
                "schedule": schedule,
                "method": method,
                "seeds": len(own),
                "κ/R(0)": _number(own["bound"].mean()),
                f"R(T)/R(0) of {artefact.dose.reference}": _number(own["grown"].mean()),
                metric.label: _mean(own["score"], digits),
                artefact.dose.reference: _mean(own["reference"], digits).partition(" ")[0],
                "difference": _mean(own["difference"], digits, "+"),
            }
        )
    above = (
        f"The difference is to {artefact.dose.reference} at its best setting of the same schedule and the same seed. "
        "κ/R(0) and R(T)/R(0) are medians over matrices."
    )
    return [Table("Means over seeds", pd.DataFrame(rows), above), Table("Every run", table)]


def _mean(values: pd.Series, digits: int, sign: str = "") -> str:
    """Return mean ± std of the known values, or "-" without any."""
    known = values.dropna()
    return f"{known.mean():{sign}.{digits}f}{spread(known.std(), digits)}" if len(known) else "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return what is seen with the longest schedule, where matrices grow most."""
    made = table(artefact, runs).dropna(subset=["bound", "difference"])
    if made.empty:
        return {}
    own = made[made["steps"] == made["steps"].max()]
    means = own.assign(percent=percent(own)).groupby("method")[["bound", "percent"]].mean().sort_values("bound")
    seen = [
        f"{abs(row.percent):.1f} % {'ahead' if (row.percent > 0) == artefact.metric.higher else 'behind'} at {row.bound:.3g}"
        for row in means.itertuples()
    ]
    said = f"{own['schedule'].iloc[0]}: CPR's {artefact.metric.label} is {', '.join(seen)} times the initial size"
    reference = f"{artefact.dose.reference}'s own matrices end at {own['grown'].mean():.3g} times"
    return {"seen": f"{said}. {reference} ({own['seed'].nunique()} seeds)"}


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw a point per run: its distance to the reference, in per cent, over its κ/R(0).

    A dotted line marks how far the reference's own matrices grow.
    """
    made = Figure(figsize=(9, 4.8), layout="constrained")
    axes = made.subplots()
    markers = dict(zip(dict.fromkeys(table["method"]), MARKERS, strict=False))
    for colour, (schedule, own) in zip(COLOURS, table.groupby("schedule", sort=False), strict=False):
        for method, points in own.groupby("method", sort=False):
            axes.scatter(points["bound"], percent(points), color=colour, marker=markers[method], s=36, alpha=0.8, lw=0)
        axes.plot([], [], color=colour, lw=4, label=schedule)
        if not math.isnan(grown := own["grown"].mean()):
            axes.axvline(grown, color=colour, lw=0.9, ls=":")
    for method, marker in markers.items():
        axes.plot([], [], color="#444444", marker=marker, ls="", label=method)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel("κ / R(0), median over matrices (a ratio)", fontsize=9)
    axes.set_ylabel(
        f"{artefact.metric.label} relative to {artefact.dose.reference}'s best, % ({artefact.metric.better} is better)",
        fontsize=9,
    )
    axes.tick_params(which="both", labelsize=8)
    open_axes(axes)
    title(made, artefact, data)
    footer(made, f"{foot}. Dotted: R(T) / R(0) of {artefact.dose.reference}")
    if len(table):
        made.legend(loc="outside right center", frameon=False, fontsize=8)
    return made


def percent(points: pd.DataFrame) -> pd.Series:
    """Return the differences in per cent of the reference's score."""
    return 100 * points["difference"] / points["reference"]


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return one chart with a dot per run."""
    by_place = {
        (schedule_of(run), method.title, run.seed): run for method in artefact.methods for run in runs_of(method, runs)
    }
    traces, legend = [], []
    for colour, (schedule, own) in zip(COLOURS, table.groupby("schedule", sort=False), strict=False):
        own = own.dropna(subset=["bound", "difference"])  # diverged, or its reference is not there yet
        for (_, row), distance in zip(own.iterrows(), percent(own), strict=True):
            run = by_place[row["schedule"], row["method"], row["seed"]]
            traces.append(run_line([row["bound"]], [distance], run, f"{row['method']}, {schedule}", colour, "markers"))
        legend.append((colour, schedule))
    if not traces:
        return []
    made = interactive.figure(
        traces,
        shapes=[level(0)],
        xaxis={"title": {"text": "κ / R(0)"}, "type": "log"},
        yaxis={"title": {"text": f"{escaped(artefact.metric.label)}, % of {escaped(artefact.dose.reference)}'s best"}},
    )
    return [Chart(made, artefact.title, 700, 460, legend=tuple(legend))]
