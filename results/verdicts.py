"""From what the runs show of each claim to verdicts, by p-values after Holm's correction over the claims of an artefact.

The verdicts, and nothing else, are:
  holds                 seen in the claimed direction, and significant where a test applies (Holm's p < 0.05)
  does not hold         seen in the opposite direction, and significant where a test applies
  undecided             neither
  too few seeds to say  with the other claims' p-values as they are, no outcome of this claim's test could have been significant
  runs missing          runs are missing, or a method that the claim compares has no cell without a diverged run

The family of the correction is an artefact's claims at one scale, with one p-value each. A claim that makes several comparisons has
combined them before: where all must be significant, the largest p-value counts, which needs no correction (an intersection-union
test); where one alone speaks against the claim, the smallest counts, times their number (Bonferroni).

A claim whose test could not be significant even alone is not in the family: it cannot be a false finding, and the other claims do not
pay for it (Tarone 1990). For those in it the smallest p-value that their number of pairs can give grows with the family, by a factor
that depends on the others: at most the number of claims, less where other claims are significant. "Too few" is therefore no fixed
number of pairs: it is asked whether that smallest value, in place of the claim's own, would be significant among the others as they
are. If it is not, other scores of as many runs could not have decided the claim; more seeds can.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from results.differences import Median

HOLDS, FAILS, UNDECIDED, TOO_FEW, MISSING = (
    "holds",
    "does not hold",
    "undecided",
    "too few seeds to say",
    "runs missing",
)
LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """What the runs show of one claim, before it is looked at together with the others.

    said: in words, without p. p: None where the test could not be significant even alone. least: the smallest p that as many pairs
    can give. towards: the verdict that the runs speak for, HOLDS or FAILS; None for neither. about: what p is of, where that is not
    the difference. median: of the difference that p is of; None for a claim about no pairs.
    """

    said: str
    p: float | None = None
    least: float = 1.0
    towards: str | None = None
    about: str = ""
    median: Median | None = None


@dataclass(frozen=True)
class Verdict:
    """One claim with what we saw. p and p_holm are None where nothing is tested; low and high are the 95 % interval of the median."""

    claim: str
    text: str
    published: str
    ours: str
    verdict: str
    p: float | None = None
    p_holm: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int | None = None


def decide(claims: Sequence[Mapping[str, Any]], findings: Sequence[Finding | None]) -> list[Verdict]:
    """The verdicts on an artefact's claims; a finding of None stands for missing runs."""
    tested = {
        number: finding.p for number, finding in enumerate(findings) if finding is not None and finding.p is not None
    }
    corrected = holm(tested)
    verdicts = []
    for number, (claim, finding) in enumerate(zip(claims, findings, strict=True)):
        about = claim["id"], claim["text"], str(claim["published"])
        if finding is None:
            verdicts.append(Verdict(*about, "", MISSING))
            continue
        p, p_holm, median = finding.p, corrected.get(number), finding.median
        ours = finding.said if p_holm is None else f"{finding.said}; p = {p:.3f}, Holm {p_holm:.3f}{finding.about}"
        if p_holm is None:
            verdict = TOO_FEW
        elif p_holm < LEVEL:
            verdict = finding.towards or UNDECIDED
        else:
            # Holm's factor is at most the number of tests: where that is enough, the others' p-values do not matter.
            possible = finding.least * len(tested) < LEVEL or holm(tested | {number: finding.least})[number] < LEVEL
            verdict = UNDECIDED if possible else TOO_FEW
        paired = (median.low, median.high, median.pairs) if median else (None, None, None)
        verdicts.append(Verdict(*about, ours, verdict, p, p_holm, *paired))
    return verdicts


def holm(p_values: Mapping[int, float]) -> dict[int, float]:
    """Return the p-values after Holm's correction for their number, by the same keys.

    As statsmodels' multipletests, which collects garbage at every call: up to seconds in a large process.
    """
    ordered = sorted(p_values, key=p_values.__getitem__)
    corrected, largest = {}, 0.0
    for rank, key in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[key]))
        corrected[key] = largest
    return corrected


def to_csv(verdicts: Sequence[Verdict]) -> str:
    """What claims.csv holds: a row a claim; what a claim does not have is empty."""
    table = pd.DataFrame([vars(verdict) for verdict in verdicts], columns=[field.name for field in fields(Verdict)])
    return table.astype({"pairs": "Int64"}).to_csv(index=False)


def from_csv(text: str) -> list[Verdict]:
    """The verdicts of a claims.csv, also of one that was written before it had p-values."""
    if not text.strip():
        return []
    numbers = {"p": float, "p_holm": float, "low": float, "high": float, "pairs": int}
    verdicts = []
    for row in pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).to_dict("records"):
        read: dict[str, Any] = row | {
            name: number(row[name]) if row.get(name) else None for name, number in numbers.items()
        }
        verdicts.append(Verdict(**read))
    return verdicts
