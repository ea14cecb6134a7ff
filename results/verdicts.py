"""Turn findings on claims into verdicts, by p-values with Holm's correction over an artefact's claims.

The verdicts, and nothing else, are:
  holds: seen in the claimed direction, and significant where a test applies (Holm's p < 0.05)
  does not hold: seen in the opposite direction, and significant where a test applies
  undecided: neither
  too few seeds to say: given the other claims' p-values, no outcome of this claim's test could be
      significant
  runs missing: runs are missing, or every cell of a compared method has a diverged run

The correction's family is an artefact's claims at one scale, with one p-value each. A claim that
makes several comparisons has already combined them. If all must be significant, the largest p-value
counts, which needs no correction (an intersection-union test). If a single one contradicts the
claim, the smallest counts, times their number (Bonferroni).

A claim whose test could not be significant even alone is not in the family. It can't be a false
finding, and the other claims don't pay for it (Tarone 1990).

For claims in the family, the smallest p-value that their number of pairs can give is multiplied by
a factor. That factor depends on the others: it is at most the number of claims, and less if other
claims are significant. "Too few" is therefore no fixed number of pairs. The test asks whether that
smallest p-value, in place of the claim's own, would be significant among the others. If not, no
scores of as many runs could have decided the claim, but more seeds can.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from results.differences import Median
from results.statistics.holm import holm

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
    """What the runs show of one claim, before the claims are corrected together.

    said: the finding in words, without p.
    p: the p-value, or None if the test could not be significant even alone.
    least: the smallest p that as many pairs can give.
    towards: the verdict that the runs support, HOLDS or FAILS, or None for neither.
    about: what p refers to, if not the difference.
    median: the difference that p refers to, or None for a claim without pairs.
    """

    said: str
    p: float | None = None
    least: float = 1.0
    towards: str | None = None
    about: str = ""
    median: Median | None = None


@dataclass(frozen=True)
class Verdict:
    """One claim with our result.

    p and p_holm are None if nothing is tested. low and high are the 95 % interval of the median.
    """

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
    """Return the verdicts on an artefact's claims. A finding of None means missing runs."""
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
            # Holm's factor is at most the number of tests. If that bound suffices, the other
            # p-values don't matter.
            possible = finding.least * len(tested) < LEVEL or holm(tested | {number: finding.least})[number] < LEVEL
            verdict = UNDECIDED if possible else TOO_FEW
        paired = (median.low, median.high, median.pairs) if median else (None, None, None)
        verdicts.append(Verdict(*about, ours, verdict, p, p_holm, *paired))
    return verdicts


def to_csv(verdicts: Sequence[Verdict]) -> str:
    """Return the content of claims.csv: a row per claim, with empty fields for missing values."""
    table = pd.DataFrame([vars(verdict) for verdict in verdicts], columns=[field.name for field in fields(Verdict)])
    return table.astype({"pairs": "Int64"}).to_csv(index=False)


def from_csv(text: str) -> list[Verdict]:
    """Return the verdicts of a claims.csv, also of files older than p-values."""
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
