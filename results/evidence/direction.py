"""The direction of a difference between two methods, each at the setting that it chose on other seeds.

Differences are paired by seed: a seed fixes initialization and data order. A claim is decided by a
two-sided paired t-test, corrected by Holm over the artefact's claims. Two methods are the same if
their difference is within half of what the artefact's control shows (results/statistics/same.py).

Only seeds that chose nothing decide. Where the seeds that chose a setting also score it, as at mini
scale, a finding has numbers and intervals alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from results.evidence.contenders import (
    Contender,
    arrivals,
    control_sides,
    sides,
    title,
    values_of,
)
from results.evidence.finding import (
    AHEAD,
    BEHIND,
    DIFFERENT,
    MISSING,
    NOT_RESOLVED,
    NUMBERS,
    SAME,
    Finding,
    p_text,
)
from results.evidence.played import Played, way
from results.evidence.published import published_lead
from results.layouts.pairs import pairs
from results.runs import Run, best_cell, frame, near
from results.schema import (
    FIRST_FRESH_SEED,
    UNTUNED,
    Artefact,
    Claim,
    SameBestClaim,
    SameClaim,
    SameValuesClaim,
    ShareClaim,
    SoonerClaim,
)
from results.series import runs_of
from results.sides import side_cells, sign
from results.statistics.arrival import logrank
from results.statistics.holm import holm
from results.statistics.improvement import probability_of_improvement
from results.statistics.paired import LEVEL, Difference
from results.statistics.same import is_same, sameness


@dataclass(frozen=True)
class Seen:
    """What the runs show of a claim, before the correction over all claims.

    said: what was compared, with the scores of both sides.
    difference: None if no seed has both scores, or a run diverged.
    p: of the test that decides. None if nothing can be decided.
    towards: the outcome if p is significant.
    """

    said: str
    difference: Difference | None = None
    p: float | None = None
    towards: str = NOT_RESOLVED


def findings(played: Played, complete: bool) -> list[Finding]:
    """Return a finding for each claim.

    Args:
        complete: whether all runs exist, those of the finalists included.
    """
    claims = played.artefact.claims
    blank = [
        Finding(claim.id, claim.text, claim.published, MISSING, paper=published_lead(played.artefact, *sides(claim)))
        for claim in claims
    ]
    if not complete:
        return blank
    seen = [_seen(played, claim) for claim in claims]
    corrected = holm({number: one.p for number, one in enumerate(seen) if one.p is not None})
    return [
        _finding(played, start, one, corrected.get(number))
        for number, (start, one) in enumerate(zip(blank, seen, strict=True))
    ]


def decides(artefact: Artefact, runs: Sequence[Run]) -> bool:
    """Return whether the runs can decide a claim: fresh seeds confirm settings, and the scale is not mini."""
    if artefact.scale == "mini":
        return False
    return artefact.layout in UNTUNED or any(run.seed >= FIRST_FRESH_SEED for run in runs)


def control_sentence(played: Played) -> str:
    """Return whether the control is told apart. Empty without a control or without its runs."""
    artefact, found = played.artefact, played.control
    if found is None:
        return ""
    said, _ = _compared(played, *control_sides(artefact))
    numbers = f"{said}: {_interval(artefact, found)}"
    if not decides(artefact, played.confirm):
        return f"Control: {numbers}."
    if found.low > 0:
        return f"Control: {numbers}. The control is told apart, so these data can resolve a difference of this size."
    return (
        f"Control: {numbers}. The control is not told apart: these data can't decide whether regularization matters, "
        "so methods that look alike say nothing."
    )


def _seen(played: Played, claim: Claim) -> Seen:
    match claim:
        case ShareClaim():
            return Seen(_shares(played, claim))
        case SoonerClaim():
            return _sooner(played, claim)
        case SameClaim():
            return _same(played, *_pair_scores(played, claim))
        case SameValuesClaim():
            return _same_values(played, claim)
        case SameBestClaim():
            left, right = sides(claim)
            said, _ = _compared(played, left, right)
            return _same(played, said, played.scores(left), played.scores(right))
    left, right = sides(claim)
    said, found = _compared(played, left, right)
    if found is None:
        return Seen(said)
    if decides(played.artefact, played.confirm):
        said += f"; {_improvement(played, left, right)}"
    return Seen(said, found, found.p, AHEAD if found.mean > 0 else BEHIND)


def _compared(played: Played, left: Contender, right: Contender) -> tuple[str, Difference | None]:
    """Return the two sides' scores in words, and their difference, which is positive if `left` is better."""
    ours, theirs = played.scores(left), played.scores(right)
    said = f"{_side(played, left, ours)} against {_side(played, right, theirs)}"
    return said, played.difference(left, right)


def _improvement(played: Played, left: Contender, right: Contender) -> str:
    """Return in words how often a run of `left` is better than a run of `right`, across seeds."""
    better = sign(played.artefact)
    ours, theirs = ([better * value for value in played.scores(side).values()] for side in (left, right))
    share, low, high = probability_of_improvement(ours, theirs)
    return f"better in {share:.0%} of pairs of runs [{low:.0%}, {high:.0%}]"


def _side(played: Played, contender: Contender, values: Mapping[int, float]) -> str:
    artefact = played.artefact
    name = title(artefact, contender)
    if not values:
        return f"{name} (no setting without divergence)"
    digits = artefact.metric.table_digits
    finite = [value for value in values.values() if math.isfinite(value)]
    mean = f"{sum(finite) / len(finite):.{digits}f}" if finite else "-"
    lost = f", {len(values) - len(finite)} of {len(values)} diverged" if len(finite) < len(values) else ""
    return f"{name} {mean}{lost}"


def _interval(artefact: Artefact, found: Difference) -> str:
    digits = artefact.metric.table_digits if artefact.metric is not None else 2
    unit = unit_of(artefact)
    return (
        f"{found.mean:+.{digits}f}{unit} [{found.low:+.{digits}f}, {found.high:+.{digits}f}] over {found.pairs} seeds"
    )


def unit_of(artefact: Artefact) -> str:
    """Return the unit of a difference, with a space before it."""
    unit = artefact.metric.unit if artefact.metric is not None else ""
    return f" {unit.replace('%', 'points')}" if unit else ""


def _shares(played: Played, claim: ShareClaim) -> str:
    """Return which share of each side's settings is near the reference's best one. Cells share seeds, so
    no test applies.
    """
    artefact, better = played.artefact, played.artefact.metric.better
    data = frame(played.tuning, artefact.metric.name)
    reference = best_cell(side_cells(artefact, data, claim.reference), better)
    if reference is None:
        return "the reference has no setting without divergence"
    said = []
    for side in (claim.left, claim.right):
        cells = side_cells(artefact, data, side)
        number = int(near(cells, reference["mean"], claim.within, better).sum())
        said.append(f"{number / max(1, len(cells)):.0%} of {len(cells)} settings")
    return f"{said[0]} against {said[1]} are within {claim.within:g}{unit_of(artefact)} of the best"


def _sooner(played: Played, claim: SoonerClaim) -> Seen:
    """Compare when the sides reach the target by the log-rank test."""
    artefact = played.artefact
    left, right = sides(claim)
    ours, theirs = (arrivals(artefact, played.runs[side]) for side in (left, right))
    if not ours.steps or not theirs.steps:
        return Seen("a side has no run")
    said = []
    for side, own in ((left, ours), (right, theirs)):
        name = _method_of(artefact, played.runs[side]) or title(artefact, side)
        reached = sum(step is not None for step in own.steps)
        epoch = own.median / artefact.curves.x_unit_steps
        when = f"{epoch:g}" if math.isfinite(epoch) else "not reached"
        said.append(f"{name}: median {artefact.curves.x_label} {when}, reached by {reached} of {len(own.steps)}")
    towards = AHEAD if ours.median < theirs.median else BEHIND if ours.median > theirs.median else NOT_RESOLVED
    return Seen("; ".join(said), None, logrank(ours, theirs), towards)


def _method_of(artefact: Artefact, runs: Sequence[Run]) -> str:
    """Return the title of the method that the runs belong to."""
    return next((method.title for method in artefact.methods if runs and runs_of(method, runs)), "")


def _pair_scores(played: Played, claim: SameClaim) -> tuple[str, Mapping[int, float], Mapping[int, float]]:
    """Return the two values' scores by seed, as means over learning rates. A higher one is better: times are negative."""
    part = next(part for part in played.artefact.parts if part.task == claim.task)
    table = pairs(played.artefact, part, played.confirm)
    first, second = (table.groupby("seed")[side].mean() for side in ("first", "second"))
    names = played.artefact.pair.values
    said = f"{part.metric.label}: {names[1]} {second.mean():.2f} against {names[0]} {first.mean():.2f}"
    way = -1 if part.metric.target is not None or not part.metric.higher else 1
    return said, (way * second).to_dict(), (way * first).to_dict()


def _same_values(played: Played, claim: SameValuesClaim) -> Seen:
    """Compare every other value with the claimed one.

    They are the same if all of them are: the largest p-value counts. They are different if one is: the
    smallest counts, times their number.
    """
    claimed, *others = values_of(played.artefact, claim, played.tuning)
    ours = played.scores(claimed)
    compared = []
    for other in others:
        if own := played.scores(other):
            said = f"{_side(played, other, own)} against {_side(played, claimed, ours)}"
            compared.append(_same(played, said, own, ours))
    known = [one for one in compared if one.difference is not None]
    tested = [one for one in known if one.p is not None]
    if not tested:
        return max(known, key=_distance, default=Seen("no other value has scores"))
    different = [one for one in tested if one.towards == DIFFERENT]
    if different:
        nearest = min(different, key=lambda one: one.p or 0.0)
        return replace(nearest, p=min(1.0, len(tested) * (nearest.p or 0.0)))
    return max(tested, key=lambda one: one.p or 0.0)


def _distance(seen: Seen) -> float:
    return abs(seen.difference.mean) if seen.difference is not None else 0.0


def _same(played: Played, said: str, left: Mapping[int, float], right: Mapping[int, float]) -> Seen:
    seeds = sorted(left.keys() & right.keys())
    better = way(played.artefact)
    found = sameness([better * left[seed] for seed in seeds], [better * right[seed] for seed in seeds], played.control)
    if found is None:
        return Seen(said)
    if found.margin is None:
        return Seen(f"{said}; without a control that is told apart", found.difference)
    same = is_same(found)
    towards = NOT_RESOLVED if same is None else SAME if same else DIFFERENT
    said += f"; margin {found.margin:.2f}{unit_of(played.artefact)}, half of what the control shows"
    return Seen(said, found.difference, min(found.p_same, found.p_different), towards)


def _finding(played: Played, start: Finding, seen: Seen, p_holm: float | None) -> Finding:
    """Return a claim's finding by its corrected p-value."""
    artefact, found = played.artefact, seen.difference
    numbers: dict[str, Any] = (
        {}
        if found is None
        else {
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "pairs": found.pairs,
            "visible": found.visible,
        }
    )
    between = "" if found is None else f": {_interval(artefact, found)}"
    if not decides(artefact, played.confirm) or (p_holm is None and found is None):
        return replace(start, outcome=NUMBERS, said=seen.said + between, **numbers)
    outcome = seen.towards if p_holm is not None and p_holm < LEVEL else NOT_RESOLVED
    said = seen.said + between
    if p_holm is not None:
        said += f", {p_text(p_holm)} (Holm)"
    if outcome == NOT_RESOLVED and found is not None:
        seeable = f"{found.visible:.{artefact.metric.table_digits if artefact.metric else 2}f}{unit_of(artefact)}"
        said += f"; a difference above {seeable} would have been seen"
    return replace(start, outcome=outcome, said=said, p=seen.p, p_holm=p_holm, **numbers)
