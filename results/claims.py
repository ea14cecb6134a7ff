"""The paper's claims, and ours, tested on our runs.

The verdicts, and nothing else, are:
  holds                 seen in the claimed direction, and significant where a test applies (p < 0.05)
  does not hold         seen in the opposite direction, and significant where a test applies
  undecided             neither
  too few seeds to say  the test could not come out significant with this number of pairs
  runs missing          runs are missing, or a method that the claim compares has no cell without a diverged run

A claim that two settings are the same holds if their difference is significantly within a margin, and does not if it is significantly
beyond: that nothing significant was seen is no evidence of being the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from results.budget import scores
from results.curves import first_step_at
from results.pairs import pairs, part_of
from results.runs import Run, best_cell, cell_at, frame, label, of_panel, panel_cells

HOLDS, FAILS, UNDECIDED, TOO_FEW, MISSING = "holds", "does not hold", "undecided", "too few seeds to say", "runs missing"
# With fewer pairs a two-sided signed-rank or sign test cannot reach p < 0.05 whatever the differences are.
FEWEST_PAIRS = 6
FEWEST_PAIRS_ONE_SIDED = 5


@dataclass(frozen=True)
class Verdict:
    """One claim with what we saw."""

    claim: str
    text: str
    published: str
    ours: str
    verdict: str


def judge(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], complete: bool) -> list[Verdict]:
    """A verdict for each claim of the artefact; `complete` says whether all its runs are there."""
    verdicts = []
    for claim in artefact["claims"]:
        kinds = {"best": _best, "share_near_best": _share, "best_value": _best_value}
        if not complete:
            ours, verdict = "", MISSING
        elif claim["kind"] == "sooner":
            ours, verdict = _sooner(artefact, claim, runs)
        elif claim["kind"] == "same":
            ours, verdict = _same(artefact, claim, runs, scale)
        elif claim["kind"] == "same_values":
            ours, verdict = _same_values(artefact, claim, frame(runs, artefact["metric"]["name"]), scale)
        elif claim["kind"] == "same_best":
            ours, verdict = _same_best(artefact, claim, frame(runs, artefact["metric"]["name"]), scale)
        elif claim["kind"] == "budget":
            ours, verdict = _budget(artefact, claim, runs, scale)
        else:
            ours, verdict = kinds[claim["kind"]](artefact, claim, frame(runs, artefact["metric"]["name"]))
        verdicts.append(Verdict(claim["id"], claim["text"], str(claim["published"]), ours, verdict))
    return verdicts


def _panel(artefact: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The panel that a claim names: by its id, or by its regularizer where it has none."""
    return next(p for p in artefact["panels"] if p.get("id", p["regularizer"]) == name)


def _panels(artefact: Mapping[str, Any], names: str | Sequence[str]) -> list[Mapping[str, Any]]:
    """The panels of one side of a claim: one, or several that together are a method with more columns."""
    return [_panel(artefact, name) for name in ([names] if isinstance(names, str) else names)]


def _panel_cells(artefact: Mapping[str, Any], data: pd.DataFrame, names: str | Sequence[str]) -> pd.DataFrame:
    return pd.concat([panel_cells(artefact, panel, data) for panel in _panels(artefact, names)], ignore_index=True)


def _sign(artefact: Mapping[str, Any]) -> int:
    return 1 if artefact["metric"]["better"] == "higher" else -1


def _best(artefact: Mapping[str, Any], claim: Mapping[str, Any], data: pd.DataFrame) -> tuple[str, str]:
    """Best cell against best cell, and Wilcoxon's signed-rank test over learning rates x seeds.

    At every learning rate and seed each method plays the column that is best by the mean over the OTHER seeds: the column and its
    value come from different runs, so a method with more columns has no better chance. Learning rates are not exchangeable, so no
    normal distribution of the differences is assumed.

    With `chosen_by`, the panels of another score of the same runs, that score decides which cell and column are best.
    """
    better, by = artefact["metric"]["better"], claim.get("chosen_by", claim)
    best_left, best_right = (_best_by(artefact, data, claim[side], by[side]) for side in ("left", "right"))
    if best_left is None or best_right is None:
        return "", MISSING
    left, right = (_held_out(_values(artefact, data, claim[side]), better, _values(artefact, data, by[side])) for side in ("left", "right"))
    differences = _sign(artefact) * (left - right).dropna()
    ours = f"{best_left['mean']:.2f} against {best_right['mean']:.2f}"
    if len(differences) < FEWEST_PAIRS:
        return f"{ours}; {len(differences)} pairs", TOO_FEW
    p = _signed_rank(differences)
    ours += f"; median difference {differences.median():+.2f} over {len(differences)} pairs, p = {p:.3f}"
    direction = _sign(artefact) * (best_left["mean"] - best_right["mean"])
    if p < 0.05 and direction > 0 and differences.median() > 0:
        return ours, HOLDS
    if p < 0.05 and direction < 0 and differences.median() < 0:
        return ours, FAILS
    return ours, UNDECIDED


def _signed_rank(differences: pd.Series, alternative: str = "two-sided") -> float:
    return float(stats.wilcoxon(differences, alternative=alternative).pvalue) if (differences != 0).any() else 1.0


def _values(artefact: Mapping[str, Any], data: pd.DataFrame, names: str | Sequence[str]) -> pd.DataFrame:
    """The values of a claim's side: a row per (row, seed), a column per column of its panels; missing where a run diverged."""
    panels, tables = _panels(artefact, names), []
    for panel in panels:
        column, chosen = panel.get("column"), of_panel(data, panel)
        labels = chosen[column].map(label) if column else pd.Series("", index=chosen.index)
        if len(panels) > 1:
            labels = f"{panel['title']} " + labels
        tables.append(chosen.assign(column=labels).pivot_table("value", [artefact["row"], "seed"], "column", dropna=False))
    return pd.concat(tables, axis=1)


def _best_by(artefact: Mapping[str, Any], data: pd.DataFrame, names: str | Sequence[str], by: str | Sequence[str]) -> pd.Series | None:
    """Of the panels `names`, the cell that is the best one of the panels `by`."""
    best = best_cell(_panel_cells(artefact, data, by), artefact["metric"]["better"])
    if best is None or by == names:
        return best
    return cell_at(_panel_cells(artefact, data, names), best)


def _held_out(values: pd.DataFrame, better: str, by: pd.DataFrame | None = None) -> pd.Series:
    """(row, seed) -> the value, at that seed, of the column that is best by the mean over the row's other seeds.

    Best by `by`, if that is given, a table of the same rows and columns.
    """
    played = {}
    for row, of_row in (values if by is None else by).groupby(level=0):
        whole = of_row.droplevel(0).dropna(axis=1)  # a column with a diverged run is not the best
        for seed in whole.index:
            others = whole.drop(index=seed).mean()
            if others.notna().any():
                played[row, seed] = values.loc[(row, seed), others.idxmax() if better == "higher" else others.idxmin()]
    return pd.Series(played, dtype=float)


def _share(artefact: Mapping[str, Any], claim: Mapping[str, Any], data: pd.DataFrame) -> tuple[str, str]:
    """Share of a method's cells within `within` of the reference method's best cell; Fisher's exact test on the counts of cells.

    A cell with a diverged run is not near. Cells share seeds and learning rates, so that the p-value is a description, not a proof.
    """
    reference = best_cell(_panel_cells(artefact, data, claim["reference"]), artefact["metric"]["better"])
    if reference is None:
        return "", MISSING
    counts = []
    for side in ("left", "right"):
        table = _panel_cells(artefact, data, claim[side])
        behind = _sign(artefact) * (reference["mean"] - table["mean"])
        near = int(((behind <= claim["within"] + 1e-9) & (table["diverged"] == 0)).sum())
        counts.append((near, len(table) - near))
    p = float(stats.fisher_exact(counts).pvalue)
    left, right = (near / (near + far) for near, far in counts)
    ours = f"{left:.0%} of {sum(counts[0])} cells against {right:.0%} of {sum(counts[1])}, p = {p:.3f}"
    if p >= 0.05:
        decisive = [(sum(counts[0]), 0), (0, sum(counts[1]))]
        return ours, UNDECIDED if stats.fisher_exact(decisive).pvalue < 0.05 else TOO_FEW
    return ours, HOLDS if left > right else FAILS


def _best_value(artefact: Mapping[str, Any], claim: Mapping[str, Any], data: pd.DataFrame) -> tuple[str, str]:
    """Whether the claimed value of the columns is the best one: it against every other, paired over learning rates x seeds.

    Holds if it has the best cell and is significantly better than every other value; does not hold if another value is significantly
    better than it (p below 0.05 divided by the number of others).
    """
    best = best_cell(_panel_cells(artefact, data, claim["left"]), artefact["metric"]["better"])
    values = _values(artefact, data, claim["left"])
    if best is None or claim["value"] not in values:
        return "", MISSING
    compared = {other: _sign(artefact) * (values[claim["value"]] - values[other]).dropna() for other in values if other != claim["value"]}
    ours = f"best {best['column']} with {best['mean']:.2f}"
    if min(map(len, compared.values()), default=0) < FEWEST_PAIRS:
        return ours, TOO_FEW
    p = {other: _signed_rank(differences) for other, differences in compared.items()}
    said = (f"{claim['value']} - {other} {d.median():+.2f}, p = {p[other]:.3f}" for other, d in compared.items())
    ours = "; ".join([ours, *said])
    if best["column"] == claim["value"] and all(p[other] < 0.05 and d.median() > 0 for other, d in compared.items()):
        return ours, HOLDS
    if any(p[other] < 0.05 / len(compared) and d.median() < 0 for other, d in compared.items()):
        return ours, FAILS
    return ours, UNDECIDED


def _sooner(artefact: Mapping[str, Any], claim: Mapping[str, Any], runs: Sequence[Run]) -> tuple[str, str]:
    """Steps to the target, left against the soonest of the right, per seed; a sign test over the seeds."""
    steps = {method["title"]: first_step_at(artefact, method, runs) for method in artefact["methods"]}
    never = float("inf")
    wins, losses, seeds = 0, 0, sorted(steps[claim["left"]])
    for seed in seeds:
        left, *right = (never if (step := steps[title].get(seed)) is None else step for title in (claim["left"], *claim["right"]))
        wins, losses = wins + (left < min(right)), losses + (left > min(right))
    ours = f"sooner in {wins} of {len(seeds)} seeds"
    if len(seeds) < FEWEST_PAIRS:
        return ours, TOO_FEW
    p = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    if p >= 0.05:
        return f"{ours}, p = {p:.3f}", UNDECIDED
    return f"{ours}, p = {p:.3f}", HOLDS if wins > losses else FAILS


def _same(artefact: Mapping[str, Any], claim: Mapping[str, Any], runs: Sequence[Run], scale: str) -> tuple[str, str]:
    """Whether the pairs of a part differ by less than its margin over learning rates x seeds.

    Ranks, because a run that never reached the target differs by more than any other, by an unknown amount.
    """
    part = part_of(artefact, claim["task"])
    first, second = artefact["pair"]["values"]
    differences = pairs(artefact, part, runs)["difference"].dropna()
    return _within(differences, part["margin"][scale], f"{second} - {first}: ", f" {part['metric']['unit']}")


def _same_values(artefact: Mapping[str, Any], claim: Mapping[str, Any], data: pd.DataFrame, scale: str) -> tuple[str, str]:
    """Whether each other value of a panel's columns differs from the claimed one by less than a margin over learning rates x seeds.

    All of them have to, so that the largest p-value counts, and no correction for their number is due; one beyond, corrected, decides
    against it.
    """
    values = _values(artefact, data, claim["left"])
    others = [other for other in values if other != claim["value"]]
    if claim["value"] not in values or not others:
        return "", MISSING
    margin, said, verdicts = claim["margin"][scale], [], []
    for other in others:
        differences = (values[other] - values[claim["value"]]).dropna()
        ours, verdict = _within(differences, margin, f"{other} - {claim['value']}: ", "", tests=len(others))
        said.append(ours)
        verdicts.append(verdict)
    ranked = (TOO_FEW, FAILS, UNDECIDED, HOLDS)
    return "; ".join(said), min(verdicts, key=ranked.index)


def _same_best(artefact: Mapping[str, Any], claim: Mapping[str, Any], data: pd.DataFrame, scale: str) -> tuple[str, str]:
    """Whether two methods, each at the column that is best by the other seeds, differ by less than a margin over learning rates x seeds."""
    better = artefact["metric"]["better"]
    left, right = (_held_out(_values(artefact, data, claim[side]), better) for side in ("left", "right"))
    return _within((left - right).dropna(), claim["margin"][scale], "", f" {artefact['metric'].get('unit', '')}".rstrip())


def _within(differences: pd.Series, margin: float, name: str, unit: str, tests: int = 1) -> tuple[str, str]:
    """Two one-sided signed-rank tests (TOST); `tests`: how many such differences could each speak against the claim."""
    if len(differences) < FEWEST_PAIRS_ONE_SIDED:
        return f"{name}{len(differences)} pairs", TOO_FEW
    within = max(_signed_rank(differences + margin, "greater"), _signed_rank(differences - margin, "less"))
    beyond = min(_signed_rank(differences + margin, "less"), _signed_rank(differences - margin, "greater"))
    ours = f"{name}median {differences.median():+.2f}{unit} over {len(differences)} pairs"
    ours += f", margin {margin:g}; p = {within:.3f} for a difference within it, {beyond:.3f} for one beyond"
    if within < 0.05:
        return ours, HOLDS
    return ours, FAILS if beyond < 0.05 / tests else UNDECIDED


def _budget(artefact: Mapping[str, Any], claim: Mapping[str, Any], runs: Sequence[Run], scale: str) -> tuple[str, str]:
    """One method at one budget against another at another: a signed-rank test over the seeds; a diverged run is the worst."""
    table = scores(artefact, scale, runs)
    worst = -math.inf if artefact["metric"]["better"] == "higher" else math.inf
    sides = []
    for side in (claim["left"], claim["right"]):
        own = table[(table["method"] == side["method"]) & (table["budget"] == side["budget"])]
        sides.append(own.set_index("seed")["score"].fillna(worst))
    differences = _sign(artefact) * (sides[0] - sides[1]).dropna()
    ours = f"{sides[0].mean():.2f} against {sides[1].mean():.2f}"
    if len(differences) < FEWEST_PAIRS:
        return f"{ours}; {len(differences)} pairs", TOO_FEW
    p = _signed_rank(differences)
    ours += f"; better in {int((differences > 0).sum())} of {len(differences)} seeds, p = {p:.3f}"
    if p >= 0.05:
        return ours, UNDECIDED
    return ours, HOLDS if differences.median() > 0 else FAILS
