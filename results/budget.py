"""Compare a method's scores at several training budgets with another method's score at one budget.

Makes curves, scores and the budget at which the scores are equal. An artefact with this layout has
`methods` and `budget`. `budget` names the steps of budget 1.0x at each scale, the method with
several budgets (`reference`) and the method to reach (`goal`).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.curves import COLOURS, first_step, runs_of, series
from results.runs import Run


def budget_of(artefact: Mapping[str, Any], scale: str, run: Run) -> float:
    """Return the run's steps in units of budget 1.0x."""
    return round(run.config["num_steps"] / artefact["budget"]["unit_steps"][scale], 4)


def scores(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per run: method, budget, seed, steps and final score, which is missing for a
    diverged run.
    """
    name, rows = artefact["metric"]["name"], []
    for method in artefact["methods"]:
        for run in runs_of(method, runs):
            about = {"method": method["title"], "budget": budget_of(artefact, scale, run), "seed": run.config["seed"]}
            rows.append(about | {"steps": run.config["num_steps"], "score": run.record["metrics"].get(name)})
    table = pd.DataFrame(rows, columns=["method", "budget", "seed", "steps", "score"])
    return table.assign(score=pd.to_numeric(table["score"])).sort_values(
        ["method", "budget", "seed"], ignore_index=True
    )


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


def equal_budgets(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run]) -> dict[int, float | None]:
    """Return, for each seed, the budget at which the reference reaches the goal's score at that seed."""
    table = scores(artefact, scale, runs).dropna(subset="score")
    of_goal, of_reference = (table[table["method"] == artefact["budget"][side]] for side in ("goal", "reference"))
    goals, higher = of_goal.set_index("seed")["score"].to_dict(), artefact["metric"]["better"] == "higher"
    found = {}
    for seed, own in of_reference.groupby("seed"):
        if seed in goals:
            found[int(seed)] = equal_budget(dict(zip(own["budget"], own["score"], strict=True)), goals[seed], higher)
    return found


def budget_table(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row per method and budget: the final score over seeds, and when its curve first reached
    the goal's final score.
    """
    table, digits = scores(artefact, scale, runs), artefact["metric"].get("digits", 2)
    name, higher = artefact["metric"]["name"], artefact["metric"]["better"] == "higher"
    goals = (
        table[table["method"] == artefact["budget"]["goal"]].dropna(subset="score").set_index("seed")["score"].to_dict()
    )
    rows = []
    for method in artefact["methods"]:
        for budget, own in table[table["method"] == method["title"]].groupby("budget"):
            of_budget = [run for run in runs_of(method, runs) if budget_of(artefact, scale, run) == budget]
            reached = [
                first_step(run, name, goals[run.config["seed"]], higher)
                for run in of_budget
                if run.config["seed"] in goals
            ]
            final = own["score"].dropna()
            spread = f" ± {final.std():.{digits}f}" if len(final) > 1 else ""
            when = ", ".join("never" if step is None else str(step) for step in reached)
            rows.append(
                {
                    "method": method["title"],
                    "budget": f"{budget:g}x",
                    "steps": own["steps"].iloc[0],
                    "seeds": len(own),
                    f"final {artefact['metric']['label']}": f"{final.mean():.{digits}f}{spread}"
                    if len(final)
                    else "diverged",
                    f"has {artefact['budget']['goal']}'s final score at step": when or "-",
                }
            )
    return pd.DataFrame(rows)


def equal_budget_line(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run]) -> str:
    """Return one sentence with the budget at which the reference has the goal's score."""
    found = equal_budgets(artefact, scale, runs)
    reference, goal = artefact["budget"]["reference"], artefact["budget"]["goal"]
    if not found:
        return f"The budget at which {reference} reaches {goal}'s score is unknown: runs are missing."
    known = pd.Series([budget for budget in found.values() if budget is not None], dtype=float)
    measured = scores(artefact, scale, runs).query("method == @reference")["budget"]
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
    return f"{reference} reaches {goal}'s score at a budget of: {', '.join(part for part in (said, never) if part)}."


def budget_figure(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], footer: str) -> Figure:
    """Draw curves over training (left) and final scores over the budget (right).

    The curves have a line per seed. A horizontal line on the right marks the goal's mean.
    """
    name, table = artefact["metric"]["name"], scores(artefact, scale, runs)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = itertools.cycle(COLOURS)
    for method in artefact["methods"]:
        own = table[table["method"] == method["title"]]
        means = own.groupby("budget")["score"].mean()
        shades = {budget: next(colours) for budget in means.index}
        for run in runs_of(method, runs):
            budget = budget_of(artefact, scale, run)
            label = f"{method['title']}, {budget:g}x" if run.config["seed"] == own["seed"].min() else None
            left.plot(*series(run, name), color=shades[budget], lw=1.0, alpha=0.7, label=label)
        right.plot(
            means.index, means, marker="o", ms=5, color=next(iter(shades.values()), "black"), label=method["title"]
        )
        right.scatter(own["budget"], own["score"], s=10, color=[shades[b] for b in own["budget"]], alpha=0.6, zorder=3)
        if method["title"] == artefact["budget"]["goal"] and len(means):
            right.axhline(means.iloc[0], color="black", lw=0.8, ls="--")
    finals = table["score"].dropna()
    if len(finals):  # otherwise the start of training would flatten the end
        left.set_ylim(finals.min() * 0.98, finals.max() * 1.3)
    left.set(xlabel="step", ylabel=artefact["metric"]["label"], yscale="log")
    right.set(xlabel="training budget", ylabel=f"final {artefact['metric']['label']}")
    right.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}")
        axes.tick_params(which="both", labelsize=8)
    figure.suptitle(artefact["title"], fontsize=11)
    figure.supxlabel(footer, fontsize=7.5, color="#444444")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure
