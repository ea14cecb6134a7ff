"""Show the state of an artefact's runs:
    python scripts/status.py [ARTEFACT ...] [scale=mini] [seeds=1,2] [key=value ...]

Counts runs by state and shows their cost so far, the remaining cost and the time left, for the
named artefacts or for all. For a single artefact it also prints a line for every run that is not
done. Keys are those of reproduce.py. Give the same keys that started the runs. Changes nothing.
"""

import sys
from collections import Counter

from results.schema import Artefact
from scripts.cli.arguments import Request, read_arguments
from scripts.cli.common import one_line_errors
from scripts.cli.tables import show
from scripts.sweep.cost import Prices, in_hours, own_seconds_per_step, time_left, unit
from scripts.sweep.dry_run import axes_of, differing
from scripts.sweep.plan import expand, known_artefacts, load_artefact
from scripts.sweep.states import STATES, RunState, states


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
    axes = axes_of(artefact, request)
    return [
        [
            run.state,
            run.run_id,
            differing(run.cfg, axes),
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
        seconds = own_seconds_per_step(run) if run.state == "running" else None
        speed = 1 / seconds if seconds else None
    return f"{speed:.3g}" if speed else ""


def main(arguments: list[str]) -> None:
    """Print the table of the artefacts, and the runs of a single one."""
    request = read_arguments(arguments)
    artefacts = [load_artefact(name) for name in request.names or known_artefacts()]
    found = [states(expand(artefact, request.options, request.overrides).values()) for artefact in artefacts]
    rows = [summary(artefact, runs, request) for artefact, runs in zip(artefacts, found, strict=True)]
    show(("artefact", "runs", *STATES, "used", "left", "time left"), rows)
    if len(artefacts) == 1 and (lines := not_done(artefacts[0], found[0], request)):
        print()
        show(("state", "run", "differs in", "step", "steps/s", "job", "reason"), lines)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
