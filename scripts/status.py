"""Show the state of an artefact's runs:  python scripts/status.py figure2

Counts runs by state and shows their cost so far, the remaining cost and the time left. For a single
artefact it also prints a line for every run that is not done. Give the same keys that started the
runs: reproduce.py with other keys trains other runs. Changes nothing.
"""

import sys
from collections import Counter

from results.schema import Artefact
from scripts.cli.common import one_line_errors
from scripts.cli.parser import Names, Request, sweep_command
from scripts.cli.tables import show
from scripts.sweep.artefacts import asked_for
from scripts.sweep.commits import commit_remark
from scripts.sweep.cost import Prices, finalists_to_come, in_hours, own_pace, time_left, unit
from scripts.sweep.labels import differing, telling_keys
from scripts.sweep.plan import expand
from scripts.sweep.states import STATES, RunState, states
from tasks.engine.terminal import say

COMMAND = sweep_command(
    "scripts/status.py", __doc__, Names("ARTEFACT", "artefacts of configs/artefact/ (default: all)")
)


def summary(artefact: Artefact, runs: list[RunState], request: Request) -> list[str]:
    """Return an artefact's row: counts, hours used and left, time left."""
    counts = Counter(run.state for run in runs)
    prices = Prices(artefact, request, runs)
    left = [run for run in runs if not run.ended]
    costs = [prices.left(run) for run in left]
    hours = unit(runs[0].cfg)
    used = in_hours([prices.used(run) for run in runs], hours)
    return [
        artefact.name,
        str(len(runs)),
        *(str(counts[state]) for state in STATES),
        used,
        in_hours(costs, hours),
        time_left(costs, left, request),
    ]


def not_done(artefact: Artefact, runs: list[RunState], request: Request) -> list[list[str]]:
    """Return a row for every run that is not done."""
    keys = telling_keys(artefact, request, [run.cfg for run in runs])
    return [
        [
            run.state,
            run.run_id,
            differing(run.cfg, keys),
            f"{run.step} of {run.cfg.num_steps}",
            steps_per_second(run),
            run.job.id if run.job else "",
            run.reason or "",
        ]
        for state in STATES
        for run in runs
        if run.state == state != "done"
    ]


def steps_per_second(run: RunState) -> str:
    """Return the speed of a run: from its log while it is in progress, from its record if it failed."""
    if run.record is not None:
        speed = run.record["steps_per_second"]
    else:
        pace = own_pace(run) if run.state == "running" else None
        speed = 1 / pace.seconds if pace else None
    return f"{speed:.3g}" if speed else ""


def not_shown(found: list[RunState], request: Request) -> str | None:
    """Return one line if the table has runs to do, and the same tasks have runs that it does not count.
    The user may have left out the keys that started a sweep.
    """
    if all(run.state != "to do" for run in found):
        return None
    counted, tasks = {run.folder for run in found}, {run.folder.parent for run in found}
    others = [path.parent for task in tasks for path in task.glob("*/config.yaml") if path.parent not in counted]
    if not others:
        return None
    keys = " ".join(f"{key}={value}" for key, value in ({"scale": request.options["scale"]} | request.given).items())
    return (
        f"counted: the artefact's runs with {keys}; {found[0].cfg.runs_dir}/ has {len(others)} more runs of these tasks, "
        "of other artefacts or keys: add the keys that started them, for example num_steps=100"
    )


def main(arguments: list[str]) -> None:
    """Print the table of the artefacts, and the runs of a single one."""
    request = COMMAND.parse(arguments)
    asked = asked_for(request)
    found = [states(expand(artefact, own.options, own.overrides).values()) for artefact, own in asked]
    rows = [summary(artefact, runs, own) for (artefact, own), runs in zip(asked, found, strict=True)]
    show(("artefact", "runs", *STATES, "used", "left", "time left"), rows)
    for (artefact, own), of_artefact in zip(asked, found, strict=True):
        if more := finalists_to_come(artefact, own, of_artefact):
            print(f"{artefact.name}: {more}")
    if len(asked) == 1 and (lines := not_done(asked[0][0], found[0], asked[0][1])):
        print()
        show(("state", "run", "differs in", "step", "steps/s", "job", "reason"), lines)
    runs = list({run.folder: run for of_artefact in found for run in of_artefact}.values())
    about = asked[0][1] if len(asked) == 1 else request
    for remark in (commit_remark([run.record for run in runs if run.record]), not_shown(runs, about)):
        if remark:
            say(remark)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
