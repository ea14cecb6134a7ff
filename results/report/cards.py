"""Cards of the report page: an artefact with its sections, the scale with the strongest evidence first."""

from collections.abc import Sequence
from dataclasses import dataclass

from results.evidence.finding import count_outcomes
from results.order import place
from results.report.sections import NOT_RUN, PLANNED, Section

LEVELS = ("paper", "small", "mini")  # the strongest evidence first


@dataclass(frozen=True)
class Card:
    """One artefact. `sections` has at least one, that of the strongest scale first."""

    sections: Sequence[Section]

    @property
    def best(self) -> Section:
        """The section to show."""
        return self.sections[0]

    @property
    def name(self) -> str:
        return self.best.name

    @property
    def title(self) -> str:
        return self.best.title

    @property
    def level(self) -> str:
        """The scale of the evidence. Empty without any."""
        return self.best.scale if has_result(self.best) else ""

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """How many findings have each outcome."""
        return count_outcomes(self.best.findings) if self.level else []

    @property
    def words(self) -> str:
        """What the page's filter searches, in lower case."""
        every = [
            text
            for one in self.sections
            for text in (one.name, one.title, one.scale, one.state, *one.tasks, *one.methods)
        ]
        return " ".join(dict.fromkeys(every)).lower()


def cards(sections: Sequence[Section]) -> list[Card]:
    """Return a card per artefact, in the paper's order.

    A scale whose runs are not complete comes after those that are. One without any result is left out
    if the artefact has another scale.
    """
    by_name: dict[str, list[Section]] = {}
    for one in sorted(sections, key=lambda one: LEVELS.index(one.scale)):
        by_name.setdefault(one.name, []).append(one)
    found = []
    for name in sorted(by_name, key=place):
        own = sorted(by_name[name], key=lambda one: one.state in (NOT_RUN, PLANNED))  # keeps the scales' order
        found.append(Card([one for one in own if has_result(one)] or own[-1:]))
    return found


def has_result(section: Section) -> bool:
    """Return whether a section has any measured number."""
    return section.state not in (NOT_RUN, PLANNED) or bool(section.runs)
