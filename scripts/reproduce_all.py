"""Every artefact, the cheapest first:  python scripts/reproduce_all.py [ARTEFACT ...] [scale=mini] [key=value ...] [--dry-run]

All of configs/artefact/, or those named; keys are those of reproduce.py. The cost of an artefact is that of its runs that have not
ended and that no cheaper one brings. Finished runs are skipped: the same command goes on where it was stopped. An artefact that cannot be
done, for its data or a package, or whose runs failed is said in one line, the others go on, and the exit code is 1; a run whose loss was
not finite is a result. --dry-run lists the order and the costs. Tables I.1 to I.3 hold no runs: `make reproduce-all` makes
them last, by model_sizes.py and `make bench`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import early

if __name__ == "__main__":
    early.importing()


import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from results.runs import NOT_FINITE
from scripts.arguments import Request, read_arguments
from scripts.common import one_line_errors
from scripts.cost import Cost, Prices, in_hours, time_left, unit
from scripts.plan import expand, known_artefacts, load_artefact, plan
from scripts.reproduce import prepare, reproduce, writable_folder
from scripts.states import RunState, states
from scripts.tables import show
from tasks.engine.errors import Interrupted, OutOfMemory, TrainingFailed, UserError, one_line
from tasks.engine.terminal import say

if TYPE_CHECKING:
    from results.runs import Run


@dataclass
class Share:
    """An artefact, the number of its runs and of those that have ended, and what is left: the runs that no artefact before it brings."""

    artefact: dict[str, Any]
    runs: int
    ended: int
    left: list[tuple[RunState, Cost]]

    @property
    def costs(self) -> list[Cost]:
        return [cost for _, cost in self.left]

    def price(self) -> tuple[bool, float]:
        """To order by: artefacts of unknown cost come last."""
        return any(cost.seconds is None for cost in self.costs), sum(cost.seconds or 0.0 for cost in self.costs)


def share(artefact: dict[str, Any], request: Request) -> Share:
    """All that is left of an artefact."""
    runs = states(expand(artefact, request.options, request.overrides).values())
    prices = Prices(artefact, request, runs)
    left = [(run, prices.left(run)) for run in runs if run.state not in ("done", "failed")]
    return Share(artefact, len(runs), len(runs) - len(left), left)


def in_order(waiting: list[Share]) -> list[Share]:
    """The cheapest first; the runs that it brings cost the others nothing."""
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
    """A line for each artefact, and the sums."""
    left = [run for one in shares for run, _ in one.left]
    hours_of = unit(left[0].cfg) if left else "core"
    rows = [
        [one.artefact["name"], str(one.runs), str(one.ended), str(len(one.left)), in_hours(one.costs, hours_of)]
        for one in shares
    ]
    show(("artefact", "runs", "ended", "to do", "cost"), rows)
    costs = [cost for one in shares for cost in one.costs]
    time = time_left(costs, left, request)
    sums = f"{len(left)} runs to do, cost {in_hours(costs, hours_of)}" + (f", time {time}" if time else "")
    print(f"{len(shares)} artefacts, scale {request.options['scale']}: {sums}", flush=True)


def planned(request: Request) -> list[dict[str, Any]]:
    """The artefacts in the order in which they are done, which is shown."""
    shares = in_order([share(load_artefact(name), request) for name in request.names or known_artefacts()])
    show_order(shares, request)
    return [one.artefact for one in shares]


@dataclass(frozen=True)
class Outcome:
    """What has come of an artefact, in words."""

    words: str
    failed: bool = False
    submitted: bool = False


def attempt(artefact: dict[str, Any], request: Request) -> Outcome:
    """Reproduces one artefact, whatever happens but a signal."""
    try:
        p = plan(artefact, request.options, request.overrides)
        out = writable_folder(p, request)
        prepare([p])
        runs = reproduce(p, request, out)
    except Interrupted:
        raise
    except (UserError, TrainingFailed, OutOfMemory) as error:
        return Outcome(f"not done: {one_line(error)}", failed=True)
    except Exception as error:  # a fault of the code, or of a library: the others may be without it
        traceback.print_exc()
        return Outcome(f"not done: {type(error).__name__}: {one_line(error)}", failed=True)
    if runs is None:
        return Outcome("submitted: the same command writes the results when its runs have ended", submitted=True)
    return judged(artefact["name"], runs, len(p.configs))


def judged(name: str, runs: "list[Run]", expected: int) -> Outcome:
    """Of an artefact whose results are written."""
    reasons = [run.record["reason"] for run in runs if run.record["status"] == "failed"]
    if failed := [reason for reason in reasons if not reason.startswith(NOT_FINITE)]:
        words = f"{len(failed)} of {expected} runs failed ({failed[0]}); scripts/retry.py {name} makes them ready to be done again"
        return Outcome(f"not done: {words}", failed=True)
    if missing := expected - len(runs):
        return Outcome(f"not done: {missing} of {expected} runs have no whole record", failed=True)
    return Outcome("done" + (f", {len(reasons)} of {expected} runs diverged" if reasons else ""))


def attempt_all(artefacts: list[dict[str, Any]], request: Request) -> dict[str, Outcome]:
    """Name -> what has come of it. A cluster is given the runs of all artefacts before one is waited for."""
    outcomes: dict[str, Outcome] = {}
    for wait in ("false", "true") if request.options["wait"] == "true" else ("false",):
        for artefact in artefacts:
            name = artefact["name"]
            if name in outcomes and not outcomes[name].submitted:
                continue
            outcomes[name] = attempt(artefact, replace(request, options=request.options | {"wait": wait}))
            if outcomes[name].failed:
                say(f"{name} is {outcomes[name].words}")
    return outcomes


def main(arguments: list[str]) -> None:
    """Shows the order, does the artefacts in it, and says what has come of each.

    Raises TrainingFailed at the end if one of them is not done.
    """
    request = read_arguments(arguments, ("dry-run",))
    artefacts = planned(request)
    if "dry-run" in request.flags:
        return
    outcomes = attempt_all(artefacts, request)
    show(("artefact", "outcome"), [[name, outcome.words] for name, outcome in outcomes.items()])
    if failed := [name for name, outcome in outcomes.items() if outcome.failed]:
        names = ", ".join(failed)
        raise TrainingFailed(
            f"{len(failed)} of {len(outcomes)} artefacts are not done: {names}; the same command tries them again"
        )


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
