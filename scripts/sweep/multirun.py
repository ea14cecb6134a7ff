"""train.py -m: list the runs of Hydra's sweep before it starts, and show them in one table at its end."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType

from scripts.cli.common import compose_config
from scripts.cli.overrides import WITH_WORD
from scripts.cli.tables import show
from scripts.sweep.states import STATES, RunState, states


def runs_of(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each run of train.py -m, in Hydra's order.
    Empty without -m, or if a key goes over the files of a group (`glob`), which Hydra alone knows.
    """
    if not {"-m", "--multirun"} & {*arguments} or {"--help", "-h", "--cfg", "-c", "--info", "-i"} & {*arguments}:
        return []
    words = [
        word
        for before, word in zip(("", *arguments), arguments, strict=False)
        if not word.startswith("-") and before not in WITH_WORD
    ]
    choices = []
    for word, override in zip(words, OverridesParser.create().parse_overrides(words), strict=True):
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            return []
        swept = override.sweep_string_iterator() if override.is_sweep_override() else ()
        choices.append([f"{override.get_key_element()}={value}" for value in swept] or [word])
    return [list(run) for run in itertools.product(*choices)]


def show_runs(runs: Sequence[Sequence[str]]) -> bool:
    """Print a line for each run: the settings that differ, its score and how it ended. Then print the means
    over seeds, and counts. Return whether all are done.
    """
    found = states(compose_config(list(run)) for run in runs)
    places = [place for place, words in enumerate(zip(*runs, strict=True)) if len(set(words)) > 1]
    keys = [runs[0][place].partition("=")[0].lstrip("+") for place in places]
    settings = [dict(zip(keys, (words[place].partition("=")[2] for place in places), strict=True)) for words in runs]
    judged = [run.record["metric"] for run in found if run.record and run.record["metric"]]
    metrics = {metric["name"]: metric["unit"] for metric in judged}
    titles = [f"{name} ({unit})" if unit else name for name, unit in metrics.items()]
    rows = [
        [run.run_id, *own.values(), *(_mean([run], name) for name in metrics), run.state, run.reason or ""]
        for run, own in zip(found, settings, strict=True)
    ]
    show(("run", *keys, *titles, "status", "reason"), rows)
    _show_means(found, settings, metrics, titles)
    counts = Counter(run.state for run in found)
    print(f"{len(runs)} runs: {', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])}")
    return counts["done"] == len(runs)


def _show_means(
    found: Sequence[RunState], settings: Sequence[dict[str, str]], metrics: Iterable[str], titles: Sequence[str]
) -> None:
    """Print mean ± standard deviation over the seeds that are done, if a setting has two of them."""
    by_setting: dict[tuple[str, ...], list[RunState]] = {}
    for run, own in zip(found, settings, strict=True):
        others = tuple(value for key, value in own.items() if key != "seed")
        by_setting.setdefault(others, []).append(run)
    done = {own: [run for run in runs if run.state == "done"] for own, runs in by_setting.items()}
    if all(len(runs) < 2 for runs in done.values()):
        return
    rows = [
        [*own, f"{len(runs)} of {len(by_setting[own])}", *(_mean(runs, name) for name in metrics)]
        for own, runs in done.items()
    ]
    print()
    show((*(key for key in settings[0] if key != "seed"), "seeds done", *titles), rows)


def _mean(runs: Sequence[RunState], name: str) -> str:
    """Return the mean of the runs' scores, with ± their standard deviation if there are several. "" without any."""
    scores = [score for run in runs if run.record and (score := run.record["metrics"].get(name)) is not None]
    if not scores:
        return ""
    return f"{fmean(scores):.2f}" + (f" ± {stdev(scores):.2f}" if len(scores) > 1 else "")
