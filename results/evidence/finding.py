"""A finding on one claim, and the file claims.csv."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

AHEAD, BEHIND, NOT_RESOLVED = "ahead", "behind", "not resolved"
SAME, DIFFERENT = "the same", "different"
NUMBERS = "numbers only"
MISSING = "runs missing"
WITHIN, BEYOND, NOT_MEASURED = "within the limit", "beyond the limit", "not measured"  # of a time or a size
OUTCOMES = (AHEAD, BEHIND, SAME, DIFFERENT, NOT_RESOLVED, NUMBERS, WITHIN, BEYOND, NOT_MEASURED, MISSING)


@dataclass(frozen=True)
class Finding:
    """What the runs show of one claim.

    outcome: one of OUTCOMES.
    said: the finding in words, with its numbers.
    difference, low, high: mean of the paired differences and its 95 % interval, in the metric's unit.
        Positive if the claim's left side is better.
    p, p_holm: p-value, alone and after Holm's correction over the artefact's claims.
    pairs: number of seeds.
    visible: the difference that would have been seen with 80 % probability.
    paper: the difference of the paper's own best values, in the same unit and direction.
    """

    claim: str
    text: str
    published: str
    outcome: str
    said: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    pairs: int | None = None
    visible: float | None = None
    paper: float | None = None


NUMERIC = dict.fromkeys(("difference", "low", "high", "p", "p_holm", "visible", "paper"), float) | {"pairs": int}


def to_csv(findings: Sequence[Finding]) -> str:
    """Return the content of claims.csv: a row per claim, with empty fields for missing values."""
    table = pd.DataFrame([vars(finding) for finding in findings], columns=[field.name for field in fields(Finding)])
    return table.astype({"pairs": "Int64"}).to_csv(index=False)


def from_csv(text: str) -> list[Finding]:
    """Return the findings of a claims.csv.

    A file of before version 0.5 has verdicts by a test that has been replaced. Its numbers are left out.
    """
    if not text.strip():
        return []
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).to_dict("records")
    if rows and "outcome" not in rows[0]:
        return []
    return [
        Finding(**{str(name): _value(str(name), value) for name, value in row.items()})  # type: ignore[arg-type]
        for row in rows
    ]


def read_findings(path: Path) -> list[Finding]:
    """Return the findings of a claims.csv. Empty without the file."""
    return from_csv(path.read_text()) if path.exists() else []


def count_outcomes(findings: Iterable[Finding]) -> list[tuple[str, int]]:
    """Return each outcome with its number of findings, in the order of OUTCOMES."""
    counts = Counter(finding.outcome for finding in findings)
    return [(outcome, counts[outcome]) for outcome in OUTCOMES if counts[outcome]]


def _value(name: str, text: str) -> Any:
    if name not in NUMERIC:
        return text
    return NUMERIC[name](text) if text else None


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return a row per claim, for people."""
    rows = [
        {"claim": one.text, "published": one.published, "ours": one.said, "finding": one.outcome} for one in findings
    ]
    return pd.DataFrame(rows, columns=["claim", "published", "ours", "finding"])


def p_text(p: float) -> str:
    """Return a p-value for people."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
