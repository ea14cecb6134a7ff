"""A method's settings: the runs that share one, and which of them is the best."""

from collections.abc import Hashable, Sequence
from statistics import fmean

from results.runs import Run, flatten
from results.schema import FIRST_FRESH_SEED, UNTUNED, Artefact

Setting = Hashable  # a configuration without its seed


def setting_of(run: Run) -> Setting:
    """Return what a run shares with the runs of its setting at other seeds."""
    flat = flatten(run.config)
    return tuple(
        sorted(
            (key, str(value))
            for key, value in flat.items()
            if key in ("lr", "num_steps") or key.startswith(("task.", "regularizer."))
        )
    )


def seeds_apart(artefact: Artefact, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs that choose settings and those that confirm them.

    They are the same if there are no fresh seeds, or if the claims name their settings.
    """
    fresh = [run for run in runs if run.seed >= FIRST_FRESH_SEED]
    if not fresh or artefact.layout in UNTUNED:
        return list(runs), list(runs)
    return [run for run in runs if run.seed < FIRST_FRESH_SEED], fresh


def best_setting(runs: Sequence[Run], metric: str, higher: bool) -> list[Run]:
    """Return the runs of the setting with the best mean of a metric over its seeds.

    A setting with a diverged run is none. Of equal means, the first among `runs` is taken. Empty without a setting.
    """
    by_setting: dict[Setting, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(setting_of(run), []).append(run)
    whole = [own for own in by_setting.values() if all(metric in run.scores for run in own)]
    pick = max if higher else min
    return pick(whole, key=lambda own: mean_score(own, metric), default=[])


def mean_score(runs: Sequence[Run], metric: str) -> float:
    """Return the mean of a metric that all runs have."""
    return fmean(run.scores[metric] for run in runs)
