"""The forest plot of the report page: every difference that a claim of the paper is about, with its interval.

Differences in the same unit share an axis. The page draws a row with CSS, at these places in per cent
of the axis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results.evidence.finding import Finding
from results.report.cards import LEVELS, Card
from results.report.sections import Section

MARGIN = 1.08  # of the axis beyond the outermost number
OUTLIER = 4  # an interval this many times as wide as the median one is cut


@dataclass(frozen=True)
class Row:
    """One claim. `low`, `mean` and `high` are None if it has no difference with an interval, `paper`
    if the paper prints no values. `cut` means that the interval goes on beyond the axis.
    """

    section: Section
    finding: Finding
    low: float | None = None
    mean: float | None = None
    high: float | None = None
    paper: float | None = None
    cut: bool = False


@dataclass(frozen=True)
class Group:
    """The claims of one unit, with the axis' ticks as (place, text)."""

    unit: str
    rows: Sequence[Row]
    ticks: Sequence[tuple[float, str]]
    zero: float


def forest(cards: Sequence[Card]) -> list[Group]:
    """Return the claims of the paper that have a difference, by unit, those of the strongest scale first."""
    by_unit: dict[str, list[tuple[Section, Finding]]] = {}
    for section, finding in sorted(claims_of_the_paper(cards), key=lambda one: LEVELS.index(one[0].scale)):
        if finding.difference is not None:
            by_unit.setdefault(section.unit, []).append((section, finding))
    return [_group(unit, own) for unit, own in by_unit.items()]


def without_difference(cards: Sequence[Card]) -> list[Row]:
    """Return the measured claims of the paper that are about something else, such as who is first."""
    return [
        Row(section, finding)
        for section, finding in claims_of_the_paper(cards)
        if finding.difference is None and finding.said
    ]


def claims_of_the_paper(cards: Sequence[Card]) -> list[tuple[Section, Finding]]:
    """Return each claim at the scale with the strongest evidence."""
    own = [card.best for card in cards if card.best.about == "paper"]
    return [(section, finding) for section in own for finding in section.findings]


def _group(unit: str, own: Sequence[tuple[Section, Finding]]) -> Group:
    strongest = own[0][0].scale  # its intervals are narrow, and must not shrink beside those of two seeds
    low, high = _axis([finding for section, finding in own if section.scale == strongest])

    def at(value: float | None) -> float | None:
        if value is None or math.isnan(value):
            return None
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    rows = [
        Row(
            section,
            finding,
            at(finding.low),
            at(finding.difference),
            at(finding.high),
            at(finding.paper) if finding.paper is not None and low <= finding.paper <= high else None,
            (finding.low or 0) < low or (finding.high or 0) > high,
        )
        for section, finding in own
    ]
    ticks = [(at(value) or 0.0, f"{value:+g}" if value else "0") for value in ticks_between(low, high)]
    return Group(unit, rows, ticks, at(0.0) or 0.0)


def _axis(findings: Sequence[Finding]) -> tuple[float, float]:
    """Return the axis' ends. They hold zero, all means, and the intervals that are not far wider than the others."""
    numbers = [(f.difference or 0.0, f.low, f.high) for f in findings]
    widths = sorted(high - low for _, low, high in numbers if _known(low, high))  # type: ignore[operator]
    widest = OUTLIER * widths[len(widths) // 2] if widths else math.inf
    ends = [0.0, *(mean for mean, _, _ in numbers), *(f.paper for f in findings if f.paper is not None)]
    for mean, low, high in numbers:
        if low is not None and high is not None and _known(low, high):
            ends += [max(low, mean - widest), min(high, mean + widest)]
    low, high = min(ends), max(ends)
    middle, half = (low + high) / 2, MARGIN * max((high - low) / 2, 1e-9)
    return middle - half, middle + half


def _known(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and math.isfinite(low) and math.isfinite(high)


def ticks_between(low: float, high: float) -> list[float]:
    """Return up to seven round numbers of an axis, with zero among them."""
    span = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(span))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= span)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]
