"""The head of the report page: three sentences on what was found, and counts of each kind of evidence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.evidence.finding import (
    AHEAD,
    BEHIND,
    BEYOND,
    DIFFERENT,
    NOT_MEASURED,
    NOT_RESOLVED,
    NUMBERS,
    SAME,
    WITHIN,
    Finding,
)
from results.evidence.paper_scale import paper_scale_sentence
from results.evidence.published import AGREES, DIFFERS
from results.mechanism import read
from results.report.cards import LEVELS, Card
from results.report.forest import claims_of_the_paper


@dataclass(frozen=True)
class Count:
    """A kind of evidence: how much there is, in one number and a line of words."""

    kind: str
    number: str
    said: str


def sentences(cards: Sequence[Card], results: Path) -> list[str]:
    """Return what was found: at paper scale, in the paper's regime, and of the mechanism.

    Args:
        results: the folder results/.
    """
    small = [finding for section, finding in claims_of_the_paper(cards) if section.scale == "small"]
    return [paper_scale_sentence(results), direction_sentence(small), mechanism_sentence(results)]


def direction_sentence(findings: Sequence[Finding]) -> str:
    """Return how many of the paper's claims point its way, from their findings at small scale."""
    outcomes = Counter(finding.outcome for finding in findings if finding.said)
    if not outcomes:
        return "No claim of the paper has been examined at small scale yet, so we don't know whether CPR beats AdamW."
    return (
        f"In the paper's regime on smaller models (small scale), {outcomes[AHEAD] + outcomes[SAME]} of "
        f"{outcomes.total()} claims point the paper's way, {outcomes[BEHIND] + outcomes[DIFFERENT]} the other way, "
        f"and {outcomes[NOT_RESOLVED] + outcomes[NUMBERS]} are not resolved."
    )


def mechanism_sentence(results: Path) -> str:
    """Return in how many tasks the optimizer does what Algorithm 1 says."""
    same, tasks = reproduced(results)
    if not tasks:
        return "No task has been replayed with Algorithm 1 yet."
    return f"AdamCPR does what Algorithm 1 says: in {same} of {tasks} tasks, θ, λ and κ equal a plain reference."


def counts(cards: Sequence[Card], results: Path) -> list[Count]:
    """Return the counts of mechanism, direction, agreement at paper scale, own questions, and times and sizes."""
    same, tasks = reproduced(results)
    small, mini = _outcomes(cards, "small"), _outcomes(cards, "mini")
    cells = Counter(
        text for card in cards for one in card.sections if one.scale == "paper" for text in one.agreement.elements()
    )
    own, times = (
        Counter(finding.outcome for card in cards if card.best.about == about for finding in card.best.findings)
        for about in ("own", "times")
    )
    measured = times.total() - times[NOT_MEASURED]
    return [
        Count("Mechanism", f"{same} of {tasks}", "tasks equal Algorithm 1, step by step"),
        Count("Direction", str(small.total()), _directions(small, mini.total())),
        Count(
            "Paper scale",
            f"{cells[AGREES]} of {cells[AGREES] + cells[DIFFERS]}" if cells else "0",
            "cells agree with the published value"
            if cells
            else "cells to compare: nothing has been trained at paper scale",
        ),
        Count("Our questions", str(own.total()), "claims of our own, not the paper's"),
        Count(
            "Times and sizes",
            f"{times[WITHIN] + times[SAME]} of {measured}",
            f"limits are kept, {times[BEYOND]} are not, and {times[NOT_RESOLVED]} are not resolved",
        ),
    ]


def _directions(small: Counter[str], mini: int) -> str:
    """Return which way the claims point that small scale examines, and how many have numbers at mini scale alone."""
    said = "of the paper's claims examined at small scale"
    if small:
        said += f": {small[AHEAD] + small[SAME]} point its way, {small[BEHIND] + small[DIFFERENT]} the other"
    return said + (f". {mini} more have numbers at mini scale, without a verdict" if mini else "")


def _outcomes(cards: Sequence[Card], scale: str) -> Counter[str]:
    return Counter(
        finding.outcome for section, finding in claims_of_the_paper(cards) if section.scale == scale and finding.said
    )


def reproduced(results: Path) -> tuple[int, int]:
    """Return how many tasks equal Algorithm 1, and how many were replayed, each at its strongest scale."""
    found: dict[str, set[str]] = {}
    for scale in reversed(LEVELS):
        own: dict[str, set[str]] = {}
        for row in read(results / scale):
            own.setdefault(row["task"], set()).add(row["outcome"])
        found |= own
    return sum(outcomes <= {"reproduced"} for outcomes in found.values()), len(found)
