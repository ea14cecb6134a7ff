"""train.py -m: list the runs of Hydra's sweep before it starts, and show them in one table at its end."""

import itertools
from collections import Counter
from collections.abc import Sequence

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
    """Print a line for each run: the settings that differ, its score and how it ended. Then print counts.
    Return whether all are done.
    """
    found = states(compose_config(list(run)) for run in runs)
    places = [place for place, words in enumerate(zip(*runs, strict=True)) if len(set(words)) > 1]
    judged = [run.record["metric"] for run in found if run.record and run.record["metric"]]
    metrics = {metric["name"]: metric["unit"] for metric in judged}
    columns = ["run", *(runs[0][place].partition("=")[0].lstrip("+") for place in places)]
    columns += [f"{name} ({unit})" if unit else name for name, unit in metrics.items()]
    rows = [
        [
            run.run_id,
            *(words[place].partition("=")[2] for place in places),
            *(_score(run, name) for name in metrics),
            run.state,
            run.reason or "",
        ]
        for run, words in zip(found, runs, strict=True)
    ]
    show((*columns, "status", "reason"), rows)
    counts = Counter(run.state for run in found)
    print(f"{len(runs)} runs: {', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])}")
    return counts["done"] == len(runs)


def _score(run: RunState, name: str) -> str:
    """Return a run's score, "" if it has none."""
    score = run.record["metrics"].get(name) if run.record else None
    return "" if score is None else f"{score:.2f}"
