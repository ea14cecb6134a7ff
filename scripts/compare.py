"""Compare runs:  python scripts/compare.py adamw-s1-2f3a adamcpr_ip-s1-1047

Shows the keys in which the configurations differ, how each run ended, and their curves of the
task's metric in one plot.
"""

import sys

from results.code import commit_of
from results.runs import Run, flatten
from scripts.cli.common import one_line_errors, runs_dir_of
from scripts.cli.parser import RUNS_DIR, Command, Names
from scripts.cli.tables import show
from scripts.cli.terminal_curves import LETTERS, curve
from scripts.sweep.run_folders import find, points, state_of
from tasks.engine.records import NOT_IDENTITY

COMMAND = Command(
    "scripts/compare.py",
    __doc__,
    Names(
        "RUN",
        f"2 to {len(LETTERS)} runs by folder, run id or the beginning of one",
        2,
        len(LETTERS),
        "adamw-s1-2f3a adamcpr_ip-s1-1047",
    ),
    (RUNS_DIR,),
)


def differing(runs: list[Run]) -> list[list[str]]:
    """Return a row for each key that differs between runs, without keys that cannot change a result."""
    flat = [{k: v for k, v in flatten(run.config).items() if k.partition(".")[0] not in NOT_IDENTITY} for run in runs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    rows = [[key, *(str(config[key]) if key in config else "-" for config in flat)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def endings(runs: list[Run]) -> list[list[str]]:
    """Return rows with states, final metrics, time and code."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.scores))

    def of(run: Run, name: str) -> str:
        value = run.scores.get(name)
        return "-" if value is None else f"{value:.5g}"

    rows = [
        ["state", *(state_of(run) for run in runs)],
        *([name, *(of(run, name) for run in runs)] for name in metrics),
    ]
    rows.append(["seconds", *(f"{run.record['seconds']:.0f}" if run.record else "-" for run in runs)])
    rows.append(["commit", *(commit_of(run.record) if run.record else "-" for run in runs)])
    rows += [[key, *(str(run.record.get(key) or "-") for run in runs)] for key in ("kernel", "data")]
    return rows


def shared_metric(runs: list[Run]) -> str | None:
    """Return the task's metric if all runs logged it, else the loss if all logged that, else None."""
    named = [metric["name"] for run in runs if (metric := run.record.get("metric"))]
    for name in [*dict.fromkeys(named), "loss"]:
        if all(any(name in row for row in run.metrics) for run in runs):
            return str(name)
    return None


def main(arguments: list[str]) -> None:
    """Print the comparison."""
    request = COMMAND.parse(arguments)
    runs_dir = runs_dir_of(request)
    runs = [find(name, runs_dir) for name in request.names]
    columns = [f"{letter} {run.run_id}" for letter, run in zip(LETTERS, runs, strict=False)]
    rows = differing(runs)
    show(("", *columns), [*rows, *endings(runs)])
    if not rows:
        print("the configurations are the same")
    if (name := shared_metric(runs)) is not None:
        print(curve(name, {letter: points(run, name) for letter, run in zip(LETTERS, runs, strict=False)}))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
