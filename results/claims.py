"""Test each kind of claim, the paper's and ours, on our runs. results/verdicts.py turns the findings
into verdicts.

A claim that two settings are the same holds if their difference is significantly within a margin.
It fails if the difference is significantly beyond the margin. A difference that is not significant
is no evidence that they are the same.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from results.differences import least_signed_rank, median_of, signed_rank
from results.layouts import budget
from results.layouts.pairs import pairs
from results.runs import Run, best_cell, frame, near
from results.schema import (
    Artefact,
    BestClaim,
    BestValueClaim,
    BudgetClaim,
    Claim,
    SameBestClaim,
    SameClaim,
    SameValuesClaim,
    ShareClaim,
    SoonerClaim,
)
from results.series import first_step_at
from results.sides import best_by, held_out, side_cells, side_values, sign
from results.verdicts import FAILS, HOLDS, LEVEL, Finding, Verdict, decide


def judge(artefact: Artefact, runs: Sequence[Run], complete: bool) -> list[Verdict]:
    """Return a verdict for each claim of an artefact `at_scale`. `complete` says whether all its runs exist."""
    claims = artefact.claims
    return decide(claims, [_finding(artefact, claim, runs) if complete else None for claim in claims])


def _finding(artefact: Artefact, claim: Claim, runs: Sequence[Run]) -> Finding | None:
    """Return what the runs show of a claim, or None if every cell of a method has a diverged run."""
    match claim:
        case SoonerClaim():
            return _sooner(artefact, claim, runs)
        case SameClaim():
            return _same(artefact, claim, runs)
        case BudgetClaim():
            return _budget(artefact, claim, runs)
    data = frame(runs, artefact.metric.name)
    match claim:
        case BestClaim():
            return _best(artefact, claim, data)
        case ShareClaim():
            return _share(artefact, claim, data)
        case BestValueClaim():
            return _best_value(artefact, claim, data)
        case SameValuesClaim():
            return _same_values(artefact, claim, data)
        case SameBestClaim():
            return _same_best(artefact, claim, data)


def _best(artefact: Artefact, claim: BestClaim, data: pd.DataFrame) -> Finding | None:
    """Compare the best cells, and test the difference with Wilcoxon's signed-rank test over learning
    rates x seeds.

    At every learning rate and seed, a method plays the column with the best mean over the OTHER
    seeds. The column and its value come from different runs, so more columns give a method no
    better chance. Learning rates are not exchangeable, so no normal distribution of the differences
    is assumed.

    A learning rate that only one side has gives no pair, but it counts in the best cells. The best
    cells and the median difference must favour the same side.

    `chosen_by` names the panels of another score of the same runs. That score then decides which
    cell and column are best.
    """
    best_left, best_right = (best_by(artefact, data, side, by) for side, by in claim.sides_and_choosers)
    if best_left is None or best_right is None:
        return None
    left, right = (
        held_out(side_values(artefact, data, side), artefact.metric.better, side_values(artefact, data, by))
        for side, by in claim.sides_and_choosers
    )
    differences = sign(artefact) * (left - right).dropna()
    lead = sign(artefact) * (best_left["mean"] - best_right["mean"])
    return _signed_rank(f"{best_left['mean']:.2f} against {best_right['mean']:.2f}", differences, lead)


def _signed_rank(said: str, differences: pd.Series, lead: float | None = None) -> Finding:
    """Return the median difference with its test. The sign of `lead`, another comparison of the sides,
    must agree.
    """
    least, median = least_signed_rank(len(differences)), median_of(differences)
    if least >= LEVEL:
        return Finding(f"{said}; {len(differences)} pairs", median=median)
    agreed = lead is None or lead * median.value > 0
    towards = HOLDS if agreed and median.value > 0 else FAILS if agreed and median.value < 0 else None
    return Finding(
        f"{said}; median difference {median.worded()}", signed_rank(differences), least, towards, median=median
    )


def _share(artefact: Artefact, claim: ShareClaim, data: pd.DataFrame) -> Finding | None:
    """Compare the shares of cells within `within` of the reference method's best cell by Fisher's
    exact test.

    A cell with a diverged run is not near. Cells share seeds and learning rates, so the p-value
    describes the data and proves nothing. Cells are not pairs, so there is no interval of a
    difference.
    """
    better = artefact.metric.better
    reference = best_cell(side_cells(artefact, data, claim.reference), better)
    if reference is None:
        return None
    tables = [side_cells(artefact, data, side) for side in (claim.left, claim.right)]
    counts = [
        (number := int(near(table, reference["mean"], claim.within, better).sum()), len(table) - number)
        for table in tables
    ]
    left, right = (close / (close + far) for close, far in counts)
    said = f"{left:.0%} of {sum(counts[0])} cells against {right:.0%} of {sum(counts[1])}"
    least = float(stats.fisher_exact([(sum(counts[0]), 0), (0, sum(counts[1]))]).pvalue)
    if least >= LEVEL:
        return Finding(said)
    p = float(stats.fisher_exact(counts).pvalue)
    return Finding(said, p, least, HOLDS if left > right else FAILS)


def _best_value(artefact: Artefact, claim: BestValueClaim, data: pd.DataFrame) -> Finding | None:
    """Test whether the claimed column value is the best one, against every other, paired over learning
    rates x seeds.

    The runs support the claim if the value has the best cell and leads every other value. The
    largest p-value then counts. They contradict it if another value leads. The smallest p-value
    among those then counts, times the number of other values.
    """
    best = best_cell(side_cells(artefact, data, claim.left), artefact.metric.better)
    values = side_values(artefact, data, claim.left)
    if best is None or claim.value not in values:
        return None
    compared = {
        other: sign(artefact) * (values[claim.value] - values[other]).dropna()
        for other in values
        if other != claim.value
    }
    said, least = (
        f"best {best['column']} with {best['mean']:.2f}",
        least_signed_rank(min(map(len, compared.values()), default=0)),
    )
    if least >= LEVEL:
        return Finding(said)
    p = {other: signed_rank(differences) for other, differences in compared.items()}
    medians = {other: median_of(differences) for other, differences in compared.items()}
    said = "; ".join(
        [said, *(f"{claim.value} - {other} {medians[other].worded()}, p = {p[other]:.3f}" for other in compared)]
    )
    behind = [other for other in compared if medians[other].value < 0]
    if behind:
        ahead = min(behind, key=lambda other: p[other])
        about = f" for one of {len(compared)} ahead of it" if len(compared) > 1 else ""
        return Finding(said, min(1.0, len(compared) * p[ahead]), least, FAILS, about, medians[ahead])
    nearest = max(compared, key=lambda other: p[other])
    first = best["column"] == claim.value and all(median.value > 0 for median in medians.values())
    return Finding(
        said,
        p[nearest],
        least,
        HOLDS if first else None,
        " for all behind it" if len(compared) > 1 else "",
        medians[nearest],
    )


def _sooner(artefact: Artefact, claim: SoonerClaim, runs: Sequence[Run]) -> Finding:
    """Compare the steps to the target, left against the fastest of the right, by a sign test over
    seeds.

    A tie at a seed doesn't count, and neither does a seed at which no side reached the target.
    """
    steps = {method.title: first_step_at(artefact, method, runs) for method in artefact.methods}
    never, seeds = math.inf, sorted(steps[claim.left])
    gains = {}
    for seed in seeds:
        left, *right = (
            never if (step := steps[title].get(seed)) is None else step for title in (claim.left, *claim.right)
        )
        gains[seed] = (min(right) - left) / artefact.curves.x_unit_steps
    differences = pd.Series(gains, dtype=float).dropna()
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    said, median = f"sooner in {wins} of {len(seeds)} seeds", median_of(differences)
    least = float(stats.binomtest(len(seeds), len(seeds)).pvalue) if seeds else 1.0
    if least >= LEVEL:
        return Finding(said, median=median)
    p = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    if median.low is not None:
        said += f"; median lead {median.worded(' ' + artefact.curves.x_label + 's')}"
    return Finding(said, p, least, HOLDS if wins > losses else FAILS if wins < losses else None, median=median)


def _budget(artefact: Artefact, claim: BudgetClaim, runs: Sequence[Run]) -> Finding:
    """Compare two methods, each at its own budget, by a signed-rank test over seeds. A diverged run
    has the worst score.
    """
    table = budget.table(artefact, runs)
    worst = -sign(artefact) * math.inf
    sides = []
    for side in (claim.left, claim.right):
        own = table[(table["method"] == side.method) & (table["budget"] == side.budget)]
        sides.append(own.set_index("seed")["score"].fillna(worst))
    differences = sign(artefact) * (sides[0] - sides[1]).dropna()
    return _signed_rank(f"{sides[0].mean():.2f} against {sides[1].mean():.2f}", differences)


def _same(artefact: Artefact, claim: SameClaim, runs: Sequence[Run]) -> Finding:
    """Test whether the pairs of a part differ by less than its margin over learning rates x seeds.

    The test uses ranks: a run that never reached the target differs by more than any other, by an
    unknown amount.
    """
    part = next(part for part in artefact.parts if part.task == claim.task)
    first, second = artefact.pair.values
    differences = pairs(artefact, part, runs)["difference"].dropna()
    return _within({f"{second} - {first}: ": differences}, part.margin[artefact.scale], f" {part.metric.unit}")


def _same_values(artefact: Artefact, claim: SameValuesClaim, data: pd.DataFrame) -> Finding | None:
    """Test whether each other column value is within a margin of the claimed one over learning rates x
    seeds.
    """
    values = side_values(artefact, data, claim.left)
    others = [other for other in values if other != claim.value]
    if claim.value not in values or not others:
        return None
    compared = {f"{other} - {claim.value}: ": (values[other] - values[claim.value]).dropna() for other in others}
    return _within(compared, claim.margin[artefact.scale])


def _same_best(artefact: Artefact, claim: SameBestClaim, data: pd.DataFrame) -> Finding:
    """Test whether two methods differ by less than a margin over learning rates x seeds.

    Each plays the column that is best by the other seeds.
    """
    better = artefact.metric.better
    left, right = (held_out(side_values(artefact, data, side), better) for side in (claim.left, claim.right))
    return _within({"": (left - right).dropna()}, claim.margin[artefact.scale], f" {artefact.metric.unit}".rstrip())


def _within(compared: Mapping[str, pd.Series], margin: float, unit: str = "") -> Finding:
    """Run two one-sided signed-rank tests (TOST) on each of the differences, keyed by the words to
    print before them.

    The runs support the claim if all differences are within the margin. The largest p-value then
    counts. They contradict it if one difference is beyond the margin. The smallest p-value then
    counts, times their number. The claim gets the smaller of these two p-values.
    """
    least = least_signed_rank(min(map(len, compared.values())), "greater")
    if least >= LEVEL:
        return Finding("; ".join(f"{name}{len(differences)} pairs" for name, differences in compared.items()))
    medians = {name: median_of(differences) for name, differences in compared.items()}
    inside, outside, several = {}, {}, len(compared) > 1
    for name, d in compared.items():
        inside[name] = max(signed_rank(d + margin, "greater"), signed_rank(d - margin, "less"))
        outside[name] = min(signed_rank(d + margin, "less"), signed_rank(d - margin, "greater"))
    said = [f"{name}median {medians[name].worded(unit)}, margin {margin:g}" for name in compared]
    if several:
        said = [
            f"{words}, p = {inside[name]:.3f} for within it, {outside[name]:.3f} for beyond"
            for words, name in zip(said, compared, strict=True)
        ]
    widest, farthest = max(inside, key=lambda name: inside[name]), min(outside, key=lambda name: outside[name])
    p_within, p_beyond = inside[widest], min(1.0, len(compared) * outside[farthest])
    if p_within <= p_beyond:
        return Finding(
            "; ".join(said),
            p_within,
            least,
            HOLDS,
            f" for {'all' if several else 'a difference'} within it",
            medians[widest],
        )
    about = f" for one of {len(compared)} beyond it" if several else " for a difference beyond it"
    return Finding("; ".join(said), p_beyond, least, FAILS, about, medians[farthest])
