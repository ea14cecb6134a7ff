"""Reproduce every artefact, the cheapest first:  python scripts/reproduce_all.py scale=mini

An artefact's cost is that of its runs that have not ended and that no cheaper artefact shares.
Finished runs are skipped, so the same command resumes where it was stopped.

An artefact that lacks data or a package, or has failed runs, is reported in one line. The others
continue, and the exit code is 1. A run whose loss was not finite is a result.

Tables I.1 to I.3 have no runs: `make reproduce-all` makes them last, with model_sizes.py and
`make bench`.
"""

import sys

from scripts.cli import early

if __name__ == "__main__":
    early.importing()


import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from results.schema import Artefact
from scripts.cli.common import one_line_errors
from scripts.cli.parser import Names, Request, sweep_command
from scripts.cli.tables import show
from scripts.reproduce import prepare, reproduce, writable_folder
from scripts.sweep.artefacts import asked_for
from scripts.sweep.budget import BUDGET, show_budget
from scripts.sweep.cost import Cost, Prices, finalists_to_come, in_hours, time_left, unit
from scripts.sweep.plan import expand, plan
from scripts.sweep.states import RunState, states
from tasks.engine.errors import Interrupted, OutOfMemory, TrainingFailed, UserError, one_line
from tasks.engine.terminal import say

if TYPE_CHECKING:
    from results.runs import Run

COMMAND = sweep_command(
    "scripts/reproduce_all.py",
    __doc__,
    Names("ARTEFACT", "artefacts of configs/artefact/ (default: all)"),
    (BUDGET,),
    flags={"dry-run": "list the order and the costs; start and write nothing"},
)


@dataclass
class Share:
    """An artefact with its request and the states of its runs.
    left: the remaining runs that no earlier artefact trains.
    """

    artefact: Artefact
    request: Request
    runs: list[RunState]
    left: list[tuple[RunState, Cost]]

    @property
    def costs(self) -> list[Cost]:
        return [cost for _, cost in self.left]

    def price(self) -> tuple[bool, float]:
        """Return the sort key. Artefacts of unknown cost come last."""
        return any(cost.seconds is None for cost in self.costs), sum(cost.seconds or 0.0 for cost in self.costs)


def share(artefact: Artefact, request: Request) -> Share:
    """Return an artefact with all of its remaining runs."""
    runs = states(expand(artefact, request.options, request.overrides).values())
    prices = Prices(artefact, request, runs)
    left = [(run, prices.left(run)) for run in runs if not run.ended]
    return Share(artefact, request, runs, left)


def in_order(waiting: list[Share]) -> list[Share]:
    """Return the cheapest first. The runs that it trains cost the others nothing."""
    ordered = []
    while waiting:
        cheapest = min(waiting, key=Share.price)
        brought = {run.folder for run, _ in cheapest.left}
        ordered.append(cheapest)
        waiting = [
            replace(other, left=[(run, cost) for run, cost in other.left if run.folder not in brought])
            for other in waiting
            if other is not cheapest
        ]
    return ordered


def show_order(shares: list[Share], request: Request) -> None:
    """Print a line for each artefact, and the sums."""
    left = [run for one in shares for run, _ in one.left]
    hours_of = unit(left[0].cfg) if left else "core"
    rows = [
        [
            one.artefact.name,
            str(len(one.runs)),
            str(sum(run.ended for run in one.runs)),
            str(len(one.left)),
            in_hours(one.costs, hours_of),
        ]
        for one in shares
    ]
    show(("artefact", "runs", "ended", "to do", "cost"), rows)
    costs = [cost for one in shares for cost in one.costs]
    for one in shares:
        if more := finalists_to_come(one.artefact, one.request, one.runs):
            print(f"{one.artefact.name}: {more}")
    time = time_left(costs, left, request)
    sums = f"{len(left)} runs to do, cost {in_hours(costs, hours_of)}" + (f", time {time}" if time else "")
    print(f"{len(shares)} artefacts, scale {request.options['scale']}: {sums}", flush=True)


def planned(request: Request) -> list[tuple[Artefact, Request]]:
    """Return the artefacts with their requests in the order in which they are reproduced, and print it."""
    shares = in_order([share(artefact, own) for artefact, own in asked_for(request)])
    show_order(shares, request)
    return [(one.artefact, one.request) for one in shares]


@dataclass(frozen=True)
class Outcome:
    """How an artefact ended, in words."""

    words: str
    failed: bool = False
    submitted: bool = False


def attempt(artefact: Artefact, request: Request) -> Outcome:
    """Reproduce one artefact. Only a signal stops the others."""
    try:
        p = plan(artefact, request.options, request.overrides)
        out = writable_folder(p, request)
        prepare([p], request.options.get("jobs", 1))
        ended = reproduce(p, request, out)
    except Interrupted:
        raise
    except (UserError, TrainingFailed, OutOfMemory) as error:
        return Outcome(f"not done: {one_line(error)}", failed=True)
    except Exception as error:  # a bug in the code or a library may not affect the others
        traceback.print_exc()
        return Outcome(f"not done: {type(error).__name__}: {one_line(error)}", failed=True)
    if ended is None:
        return Outcome("submitted: when its runs have ended, the same command writes the results", submitted=True)
    p, made = ended
    print(made.findings, flush=True)
    return judged(artefact.name, p.runs, len(p.configs))


def judged(name: str, runs: "list[Run]", expected: int) -> Outcome:
    """Return the outcome of an artefact with written results."""
    if failed := [run.record["reason"] for run in runs if run.status == "failed"]:
        words = f"{len(failed)} of {expected} runs failed ({failed[0]}); python scripts/retry.py {name} lets them be retried"
        return Outcome(f"not done: {words}", failed=True)
    if missing := expected - len(runs):
        return Outcome(f"not done: {missing} of {expected} runs have no intact record", failed=True)
    diverged = sum(run.status == "diverged" for run in runs)
    return Outcome("done" + (f", {diverged} of {expected} runs diverged" if diverged else ""))


def attempt_all(asked: Sequence[tuple[Artefact, Request]]) -> dict[str, Outcome]:
    """Return name -> outcome. The runs of all artefacts are submitted before the first is waited for."""
    outcomes: dict[str, Outcome] = {}
    for wait in ("false", "true"):
        for artefact, request in asked:
            name = artefact.name
            if wait == "true" and not (outcomes[name].submitted and request.options["wait"] == "true"):
                continue
            outcomes[name] = attempt(artefact, replace(request, options=request.options | {"wait": wait}))
            if outcomes[name].failed:
                say(f"{name} is {outcomes[name].words}")
    return outcomes


def main(arguments: list[str]) -> None:
    """Print the order, reproduce the artefacts in it, and print each outcome.
    Raises TrainingFailed at the end if one of them is not done.
    """
    request = COMMAND.parse(arguments)
    if "budget" in request.options:
        show_budget(asked_for(request), request)
        return
    asked = planned(request)
    if "dry-run" in request.flags:
        return
    outcomes = attempt_all(asked)
    show(("artefact", "outcome"), [[name, outcome.words] for name, outcome in outcomes.items()])
    if failed := [name for name, outcome in outcomes.items() if outcome.failed]:
        names = ", ".join(failed)
        raise TrainingFailed(
            f"{len(failed)} of {len(outcomes)} artefacts are not done: {names}; run the same command to retry them"
        )


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
