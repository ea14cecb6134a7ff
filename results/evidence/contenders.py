"""Find which setting each side of a claim plays, and its scores on the seeds that confirm.

A setting is chosen on the tuning seeds, by one half of the test examples where the task scores halves.
It is confirmed on fresh seeds, which no choice has seen (`finalists` of the artefact's scale). Without
them the tuning seeds are scored on the other half.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from results.layouts import budget
from results.runs import Run, chosen_and_reported, columns_of, frame, metric_of, of_panel
from results.schema import (
    Artefact,
    BestClaim,
    BestValueClaim,
    BudgetClaim,
    Claim,
    Panel,
    SameBestClaim,
    SameValuesClaim,
    Side,
    SoonerClaim,
    names_of,
)
from results.series import first_step, runs_of
from results.settings import best_setting, mean_score, setting_of
from results.statistics.arrival import Arrivals


@dataclass(frozen=True)
class Contender:
    """A side of a claim: all settings of some panels or methods, of which it plays one.

    names: panels by id, or methods by title.
    column: only the settings with this value of the panel's column. `but` excludes one value.
    by: the panels whose score chooses the setting, if not its own.
    at: the budget, for `layout: budget`.
    """

    names: tuple[str, ...]
    column: str | None = None
    but: str | None = None
    by: tuple[str, ...] | None = None
    at: float | None = None


def sides(claim: Claim) -> tuple[Contender, ...]:
    """Return the two contenders of a claim, or none for a claim that compares no two settings."""
    match claim:
        case BestClaim():
            return tuple(_contender(side, by) for side, by in claim.sides_and_choosers)
        case SameBestClaim():
            return _contender(claim.left), _contender(claim.right)
        case BestValueClaim():
            names = tuple(names_of(claim.left))
            return Contender(names, column=claim.value), Contender(names, but=claim.value)
        case SoonerClaim():
            return Contender((claim.left,)), Contender(tuple(claim.right))
        case BudgetClaim():
            return tuple(Contender((side.method,), at=side.budget) for side in (claim.left, claim.right))
    return ()


def _contender(side: Side, by: Side | None = None) -> Contender:
    names = tuple(names_of(side))
    chosen_by = names if by is None else tuple(names_of(by))
    return Contender(names, by=None if chosen_by == names else chosen_by)


def contenders(artefact: Artefact, tuning: Sequence[Run]) -> list[Contender]:
    """Return the contenders of an artefact `at_scale`, its control last, without repetitions."""
    found = [contender for claim in artefact.claims for contender in sides(claim)]
    for claim in artefact.claims:
        if isinstance(claim, SameValuesClaim):
            found += values_of(artefact, claim, tuning)
    if artefact.control is not None:
        found += control_sides(artefact)
    return list(dict.fromkeys(found))


def most_settings(every: Sequence[Contender]) -> int:
    """Return how many settings contenders play at most. A side plays that of a column or of the others, if both are there."""
    split = {
        replace(one, column=None)
        for one in every
        if one.column is not None and replace(one, column=None, but=one.column) in every
    }
    return len(set(every) - split)


def values_of(artefact: Artefact, claim: SameValuesClaim, tuning: Sequence[Run]) -> list[Contender]:
    """Return a contender for each value of the claim's columns, the claimed one first."""
    names, data = tuple(names_of(claim.left)), frame(tuning, artefact.metric.name)
    columns: dict[str, None] = {claim.value: None}
    for panel, _ in _panels(artefact, Contender(names)):
        if not (own := of_panel(data, panel)).empty:
            columns |= dict.fromkeys(sorted(set(columns_of(own, panel.column))))
    return [Contender(names, column=value) for value in columns]


def control_sides(artefact: Artefact) -> tuple[Contender, Contender]:
    """Return the control's contenders: the panel's other settings, and the value that must be worse."""
    assert artefact.control is not None
    names = (artefact.control.panel,)
    return Contender(names, but=artefact.control.value), Contender(names, column=artefact.control.value)


def title(artefact: Artefact, contender: Contender) -> str:
    """Return a contender's name for people."""
    known = {panel.name: panel.title for panel in artefact.panels}
    name = " + ".join(known.get(one, one) for one in contender.names)
    extra = contender.column or (f"other than {contender.but}" if contender.but else None)
    if contender.at is not None:
        extra = f"{contender.at:g}x"
    return f"{name} ({extra})" if extra else name


def choose(artefact: Artefact, contender: Contender, tuning: Sequence[Run]) -> list[Run]:
    """Return the tuning runs of the setting that a contender plays. Empty if it has no setting without divergence."""
    if artefact.layout == "curves":
        return _soonest(artefact, contender, tuning)
    if artefact.layout == "budget":
        (name,) = contender.names
        method = next(method for method in artefact.methods if method.title == name)
        return [run for run in runs_of(method, tuning) if budget.budget_of(artefact, run) == contender.at]
    return _best_cell(artefact, contender, tuning)


def _best_cell(artefact: Artefact, contender: Contender, tuning: Sequence[Run]) -> list[Run]:
    """Return the runs of the best setting among the contender's panels."""
    data, higher = frame(tuning, artefact.metric.name), artefact.metric.higher
    best: tuple[float, pd.DataFrame] | None = None
    for panel, chooser in _panels(artefact, contender):
        metric, _ = chosen_and_reported(metric_of(artefact, chooser), tuning)
        cells = _in_cells(artefact, chooser, data)
        if contender.column is not None:
            cells = cells[cells["column"] == contender.column]
        if contender.but is not None:
            cells = cells[cells["column"] != contender.but]
        chosen = best_setting(_among(tuning, cells), metric, higher)
        if chosen and (best is None or (mean_score(chosen, metric) > best[0]) == higher):
            cell = cells[cells["run_id"] == chosen[0].run_id].iloc[0]
            own = _in_cells(artefact, panel, data)
            at_cell = (own[artefact.row] == cell[artefact.row]) & (own["column"] == cell["column"])
            best = mean_score(chosen, metric), own[at_cell]
    return [] if best is None else _among(tuning, best[1])


def _in_cells(artefact: Artefact, panel: Panel, data: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a panel's runs with their `column`, in the order of its cells."""
    own = of_panel(data, panel)
    if own.empty:  # `data` may lack the column's key
        return own.assign(column="")
    return own.assign(column=columns_of(own, panel.column)).sort_values([artefact.row, "column"], kind="stable")


def _among(runs: Sequence[Run], rows: pd.DataFrame) -> list[Run]:
    """Return the runs of some rows of `frame`, in their order."""
    by_id = {run.run_id: run for run in runs}
    return [by_id[run_id] for run_id in rows["run_id"]]


def _panels(artefact: Artefact, contender: Contender) -> Iterator[tuple[Panel, Panel]]:
    """Yield each panel of a contender with the panel whose score chooses its cell."""
    by_name = {panel.name: panel for panel in artefact.panels}
    for name, chooser in zip(contender.names, contender.by or contender.names, strict=True):
        if name in by_name:  # a scale may lack a panel
            yield by_name[name], by_name[chooser]


def _soonest(artefact: Artefact, contender: Contender, tuning: Sequence[Run]) -> list[Run]:
    """Return the runs of the method that reaches the target first, by its median over seeds."""
    every = [runs_of(method, tuning) for method in artefact.methods if method.title in contender.names]
    return min((own for own in every if own), key=lambda own: arrivals(artefact, own).median, default=[])


def arrivals(artefact: Artefact, runs: Sequence[Run]) -> Arrivals:
    """Return when runs reached the artefact's target."""
    metric, target = artefact.metric, artefact.curves.target
    steps = [first_step(run, metric.name, target, metric.higher) for run in runs]
    return Arrivals(steps, max((run.num_steps for run in runs), default=0))


def confirmed(contender_runs: Sequence[Run], confirm: Sequence[Run]) -> list[Run]:
    """Return the confirming runs with the setting of the chosen ones, sorted by seed."""
    if not contender_runs:
        return []
    setting = setting_of(contender_runs[0])
    return sorted((run for run in confirm if setting_of(run) == setting), key=lambda run: run.seed)


def scores(artefact: Artefact, contender: Contender, runs: Sequence[Run], every: Sequence[Run]) -> Mapping[int, float]:
    """Return the reported score of each run by seed. NaN for a diverged run.

    Args:
        every: the runs that say whether the task scores halves.
    """
    metric = artefact.metric.name
    if artefact.layout == "heatmap":
        metric = metric_of(artefact, next(_panels(artefact, contender))[0])
    _, reported = chosen_and_reported(metric, every)
    return {run.seed: float(run.scores.get(reported, math.nan)) for run in runs}
