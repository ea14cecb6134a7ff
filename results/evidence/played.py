"""What each side of an artefact's claims plays: the runs that chose its setting, and those that confirm it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from results.evidence.contenders import Contender, choose, confirmed, contenders, control_sides, scores
from results.runs import Run
from results.schema import Artefact
from results.settings import seeds_apart
from results.sides import sign
from results.statistics.paired import Difference, difference


@dataclass(frozen=True)
class Played:
    """Every contender's runs. Make it once with `play` and share it, because choosing settings is slow.

    tuning, confirm: the runs that choose settings and those that confirm them. They can be the same.
    chosen: each contender's tuning runs, of the setting that it plays.
    runs: each contender's confirming runs, sorted by seed.
    """

    artefact: Artefact
    tuning: Sequence[Run]
    confirm: Sequence[Run]
    chosen: Mapping[Contender, Sequence[Run]]
    runs: Mapping[Contender, Sequence[Run]]

    def scores(self, contender: Contender) -> Mapping[int, float]:
        """Return a contender's scores by seed."""
        return scores(self.artefact, contender, self.runs.get(contender, []), self.confirm)

    def difference(self, left: Contender, right: Contender) -> Difference | None:
        """Return the paired difference, positive if `left` is better. None without a shared seed."""
        ours, theirs, better = self.scores(left), self.scores(right), way(self.artefact)
        seeds = sorted(ours.keys() & theirs.keys())
        return difference([better * ours[seed] for seed in seeds], [better * theirs[seed] for seed in seeds])

    @cached_property
    def control(self) -> Difference | None:
        """How much better the control's other settings are. None without a control or its runs."""
        if self.artefact.control is None:
            return None
        return self.difference(*control_sides(self.artefact))


def play(artefact: Artefact, runs: Sequence[Run]) -> Played:
    """Choose every contender's setting, for an artefact `at_scale`, and find its confirming runs."""
    tuning, confirm = seeds_apart(artefact, runs)
    chosen = {one: choose(artefact, one, tuning) for one in contenders(artefact, tuning)}
    return Played(artefact, tuning, confirm, chosen, {one: confirmed(own, confirm) for one, own in chosen.items()})


def way(artefact: Artefact) -> int:
    """Return the sign that makes higher scores better. An artefact without a metric has such scores."""
    return sign(artefact) if artefact.metric is not None else 1
