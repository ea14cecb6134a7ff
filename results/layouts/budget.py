"""`layout: budget`: a method's scores at several training budgets against another's score at one.

Makes curves, scores and the budget at which the scores are equal. The artefact's `budget` names the
steps of budget 1.0x at each scale, the method with several budgets (`reference`) and the method to
reach (`goal`).
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results import interactive
from results.figures import COLOURS, footer, open_axes, title
from results.interactive import Chart, level, run_line, thinned
from results.line_labels import LineEnd, name_lines
from results.runs import Run
from results.schema import Artefact, Method
from results.series import first_step, runs_of, series
from results.table import Table, spread

DRAWN_FROM_TABLE = False


def budget_of(artefact: Artefact, run: Run) -> float:
    """Return the run's steps in units of budget 1.0x."""
    return round(run.num_steps / artefact.budget.unit_steps[artefact.scale], 4)


def table(artefact: Artefact, runs: Sequence[Run], seeds: int = 0) -> pd.DataFrame:
    """Return a row per run: method, budget, seed, steps and final score, which is missing for a
    diverged run.
    """
    columns = ["method", "budget", "seed", "steps", "score"]
    rows = [
        (method.title, budget_of(artefact, run), run.seed, run.num_steps, run.scores.get(artefact.metric.name))
        for method in artefact.methods
        for run in runs_of(method, runs)
    ]
    made = pd.DataFrame(rows, columns=columns)
    return made.assign(score=pd.to_numeric(made["score"])).sort_values(columns[:3], ignore_index=True)


def tables(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Table]:
    """Return a table of budgets, and every run."""
    if not runs:
        return [Table("Table", table)]
    best = {f"final {artefact.metric.label}": artefact.metric.better}
    return [Table("Budgets", budget_table(artefact, table, runs), best=best), Table("Every run", table)]


def budget_table(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per method and budget: the final score over seeds, and when its curve first reached
    the goal's final score.
    """
    metric, goal = artefact.metric, artefact.budget.goal
    goals = table[table["method"] == goal].dropna(subset="score").set_index("seed")["score"].to_dict()
    rows = []
    for method in artefact.methods:
        for budget, own in table[table["method"] == method.title].groupby("budget"):
            reached = [
                first_step(run, metric.name, goals[run.seed], metric.higher)
                for run in runs_of(method, runs)
                if budget_of(artefact, run) == budget and run.seed in goals
            ]
            final, digits = own["score"].dropna(), metric.digits
            mean = f"{final.mean():.{digits}f}{spread(final.std(), digits)}" if len(final) else "diverged"
            when = ", ".join("never" if step is None else str(step) for step in reached)
            about = {"method": method.title, "budget": f"{budget:g}x", "steps": own["steps"].iloc[0], "seeds": len(own)}
            rows.append(about | {f"final {metric.label}": mean, f"has {goal}'s final score at step": when or "-"})
    return pd.DataFrame(rows)


def equal_budget(by_budget: Mapping[float, float], goal: float, higher: bool) -> float | None:
    """Return the smallest budget at which the score equals the goal, or None outside the measured
    budgets.

    Between two budgets, log(score) is interpolated linearly in log(budget). If the smallest budget
    already reaches the goal, it is returned.
    """
    sign = 1 if higher else -1
    points = sorted((budget, score) for budget, score in by_budget.items() if score is not None and score > 0)
    if points and sign * (points[0][1] - goal) >= 0:
        return points[0][0]
    for (low, worse), (high, better) in itertools.pairwise(points):
        if sign * (better - goal) >= 0:
            share = math.log(goal / worse) / math.log(better / worse)
            return math.exp(math.log(low) + share * math.log(high / low))
    return None


def equal_budgets(artefact: Artefact, table: pd.DataFrame) -> dict[int, float | None]:
    """Return, for each seed, the budget at which the reference reaches the goal's score at that seed."""
    known = table.dropna(subset="score")
    goals = known[known["method"] == artefact.budget.goal].set_index("seed")["score"].to_dict()
    found = {}
    for seed, own in known[known["method"] == artefact.budget.reference].groupby("seed"):
        if seed in goals:
            by_budget = dict(zip(own["budget"], own["score"], strict=True))
            found[int(seed)] = equal_budget(by_budget, goals[seed], artefact.metric.higher)
    return found


def facts(artefact: Artefact, runs: Sequence[Run]) -> dict[str, str]:
    """Return one sentence with the budget at which the reference has the goal's score."""
    scores = table(artefact, runs)
    found = equal_budgets(artefact, scores)
    reference, goal = artefact.budget.reference, artefact.budget.goal
    if not found:
        return {"equal budget": f"The budget at which {reference} reaches {goal}'s score is unknown: runs are missing."}
    known = pd.Series([budget for budget in found.values() if budget is not None], dtype=float)
    measured = scores.query("method == @reference")["budget"]
    smallest, largest = measured.min(), measured.max()
    said = (
        f"{known.median():.2f}x in the median of {len(known)} seeds ({known.min():.2f}x to {known.max():.2f}x)"
        if len(known)
        else ""
    )
    if (at_once := int((known == smallest).sum())) > 0:
        said += f", or less in {at_once} of them: {smallest:g}x is the smallest measured"
    never = (
        f"not within {largest:g}x in {len(found) - len(known)} of {len(found)} seeds" if len(known) < len(found) else ""
    )
    where = ", ".join(filter(None, (said, never)))
    return {"equal budget": f"{reference} reaches {goal}'s score at a budget of: {where}."}


@dataclass(frozen=True)
class Budgets:
    """What a figure shows of one method.

    scores: its rows of `table`, means: their means by budget, colours: by budget.
    """

    method: Method
    runs: Sequence[Run]
    scores: pd.DataFrame
    means: pd.Series
    colours: Mapping[float, str]


def by_method(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> Iterator[Budgets]:
    """Yield each method's scores and colours."""
    colours = itertools.cycle(COLOURS)
    for method in artefact.methods:
        own = table[table["method"] == method.title]
        means = own.groupby("budget")["score"].mean()
        yield Budgets(method, runs_of(method, runs), own, means, {budget: next(colours) for budget in means.index})


def score_range(table: pd.DataFrame) -> tuple[float, float] | None:
    """Return the range of the curves' y axis, or None without scores. The start of training would flatten the end."""
    finals = table["score"].dropna()
    return (finals.min() * 0.98, finals.max() * 1.3) if len(finals) else None


def figure(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run], data: str, foot: str) -> Figure:
    """Draw curves over training (left) and final scores over the budget (right).

    The curves have a line per seed. Each budget is named where its first seed's line ends. A
    horizontal line on the right marks the goal's mean.
    """
    metric, unit = artefact.metric, artefact.budget.unit_steps[artefact.scale]
    made = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = made.subplots(1, 2, width_ratios=(3, 2))
    curves, means = list[LineEnd](), list[LineEnd]()
    for one in by_method(artefact, table, runs):
        name, own, colours = one.method.title, one.scores, one.colours
        for run in one.runs:
            budget, (steps, values) = budget_of(artefact, run), series(run, metric.name)
            left.plot(steps, values, color=colours[budget], lw=1.0, alpha=0.7)
            if steps and run.seed == own["seed"].min():
                curves.append(LineEnd(steps[-1], values[-1], f"{name}, {budget:g}x", colours[budget]))
        colour = next(iter(colours.values()), "black")
        right.plot(one.means.index, one.means, marker="o", ms=5, color=colour)
        dots = [colours[budget] for budget in own["budget"]]
        right.scatter(own["budget"], own["score"], s=10, color=dots, alpha=0.6, zorder=3)
        if len(one.means):
            means.append(LineEnd(one.means.index[-1], one.means.iloc[-1], name, colour))
        if name == artefact.budget.goal and len(one.means):
            right.axhline(one.means.iloc[0], color="black", lw=0.8, ls="--")
    if (ends := score_range(table)) is not None:
        left.set_ylim(*ends)
    left.set(xlabel="step", ylabel=metric.label_and_unit, yscale="log")
    right.set(xlabel=f"training budget (1x: {unit:,} steps)", ylabel=f"final {metric.label_and_unit}")
    right.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    for axes in (left, right):
        open_axes(axes)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}")
        axes.tick_params(which="both", labelsize=8)
    title(made, artefact, data)
    footer(made, f"{foot}. Dashed: the mean of {artefact.budget.goal}")
    name_lines(made, left, curves)
    name_lines(made, right, means)
    return made


def panels(artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> list[Chart]:
    """Return the curves over training, and the final scores over the budget with the goal's mean as a
    level.
    """
    metric, goal = artefact.metric, artefact.budget.goal
    curves, finals, legend, shapes = [], [], [], []
    for one in by_method(artefact, table, runs):
        for run in one.runs:
            budget = budget_of(artefact, run)
            about, colour = f"{one.method.title}, {budget:g}x", one.colours[budget]
            curves.append(run_line(*thinned(*series(run, metric.name)), run, about, colour, width=1.2))
            finals.append(run_line([budget], [run.scores.get(metric.name)], run, about, colour, mode="markers"))
        legend += [(colour, f"{one.method.title}, {budget:g}x") for budget, colour in one.colours.items()]
        if one.method.title == goal and one.means.notna().any():
            shapes.append(level(one.means.iloc[0]))
    y: dict[str, Any] = {"title": {"text": metric.label}, "type": "log"}
    if (ends := score_range(table)) is not None:
        y["range"] = [math.log10(end) for end in ends]
    left = interactive.figure(curves, xaxis={"title": {"text": "step"}}, yaxis=y)
    budgets = sorted(table["budget"].unique().tolist())
    x = {"title": {"text": "training budget"}, "tickvals": budgets, "ticksuffix": "x"}
    x |= {"range": [budgets[0] - 0.25, budgets[-1] + 0.25]} if budgets else {}
    right = interactive.figure(finals, shapes=shapes, xaxis=x, yaxis={"title": {"text": metric.label}})
    return [
        Chart(left, "over training", 640, 380, legend=tuple(legend)),
        Chart(right, f"at the end; dashed: the mean of {goal}", 420, 380),
    ]
