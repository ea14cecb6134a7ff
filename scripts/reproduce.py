"""Reproduce artefacts of the paper:  python scripts/reproduce.py figure2 seeds=1,2 jobs=2

Expands the artefact's grids, skips finished runs, trains the rest and writes
results/<scale>/<artefact>/.

launcher=local (the default) trains in parallel processes here. launcher=slurm submits jobs and
returns. The same command writes the results when the runs have ended, and wait=true waits for them.

A key of train.py holds for every run: `num_steps=100` for a quick look, `lr=1e-2` for one row.

records=committed trains nothing. It builds the same files from the committed records, and reports the
runs that are missing there. records=both trains only these.
"""

import sys
from pathlib import Path

from scripts.cli import early

if __name__ == "__main__":
    early.importing()


import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results.schema import Artefact
from scripts.cli.common import one_line_errors
from scripts.cli.parser import RECORDS, ROOT, Names, Request, sweep_command
from scripts.prepare_data import prepare_task, wanted
from scripts.sweep.artefacts import asked_for
from scripts.sweep.budget import BUDGET, show_budget
from scripts.sweep.commits import commit_remark
from scripts.sweep.committed_runs import committed_runs, records_file
from scripts.sweep.cost import Prices
from scripts.sweep.dry_run import dry_run
from scripts.sweep.local import jobs_of, run_all
from scripts.sweep.plan import Plan, expand_and_read, plan, tuning_seeds
from scripts.sweep.processes import check_together, train_together
from scripts.sweep.progress import Progress
from tasks.engine import fake, records
from tasks.engine.errors import UserError

if TYPE_CHECKING:
    from results.artefact import Summary
    from results.runs import Run

RECORDS_OR_BOTH = replace(
    RECORDS,
    about=f"{RECORDS.about}; both: keep committed runs and train the others",
    choices=(*RECORDS.choices, "both"),
)
COMMAND = sweep_command(
    "scripts/reproduce.py",
    __doc__,
    Names("ARTEFACT", "an artefact of configs/artefact/", least=1, example="figure2"),
    (RECORDS_OR_BOTH, BUDGET),
    flags={"dry-run": "list what would be trained, what would be skipped and the cost; start and write nothing"},
)


def results_folder(name: str, options: dict[str, str], overrides: dict[str, str], runs_dir: Path) -> Path:
    """Return the folder for the results.
    Results that differ from the artefact's definition must not replace the table that bears its
    name.
    """
    whole = (
        options["scale"] != fake.SCALE
        and not options.keys() & {"seeds", "finalists"}
        and options.get("cells") != "best"
    )
    own = whole and {key.partition(".")[0] for key in overrides} <= set(records.NOT_IDENTITY)
    root = Path(options.get("results_dir", ROOT / "results" if own else runs_dir / "results"))
    return root / options["scale"] / name


def writable_folder(p: Plan, request: Request) -> Path:
    """Return the folder for the artefact's results.
    Raises UserError if it can't be written, so that the user learns it before the runs.
    """
    folder = results_folder(p.artefact.name, request.options, request.overrides, Path(p.configs[0].runs_dir))
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder} cannot be written: {there} is read-only or not a folder; set results_dir= to another folder (runs_dir= for runs)"
        )
    return folder


def prepare(plans: list[Plan], jobs: int) -> None:
    """Find the devices and download the data of all artefacts, before the first one trains for hours.
    `jobs` is the number of runs at a time.
    Raises UserError if a device or data set is not available, or the runs need other machines.
    """
    if not any(p.todo for p in plans):
        return
    from tasks.engine.device import enough_devices

    todo = [cfg for p in plans for cfg in p.todo]
    here = [cfg for cfg in todo if cfg.launcher.name == "local"]
    for device, nodes, gpus in dict.fromkeys((cfg.device, cfg.nodes, cfg.gpus) for cfg in here):
        check_together(nodes, gpus, jobs)
        enough_devices(device, gpus)
    first = [cfg for cfg in todo if cfg.launcher.get("prepare") != "job"]
    for task, name, folder in wanted(first):
        prepare_task(task, [name], Path(folder))


def reproduce(p: Plan, request: Request, out: Path, progress: Progress | None = None) -> "tuple[Plan, Summary] | None":
    """Reproduce one artefact, from its runs to the results in the folder `out`. Print its table.
    Returns the plan at the end, with the finalists, and what was written, or None if runs are left to the cluster.
    """
    name, options = p.artefact.name, request.options
    while True:
        print(f"{name}: {len(p.configs)} runs, {ended(p.runs)}, {len(p.todo)} to do", flush=True)
        if remark := commit_remark([run.record for run in p.runs]):
            print(f"{name}: {remark}", flush=True)
        if not p.todo:
            break
        if not train(p.todo, options, name, progress):
            print(f"{name}: when the runs have ended, the same command goes on (wait=true waits for them)")
            return None
        tried, p = {records.run_id(cfg) for cfg in p.todo}, plan(p.artefact, options, request.overrides)
        if tried.issuperset(records.run_id(cfg) for cfg in p.todo):  # no finalists are left, only runs that failed
            break
    return p, write_results(p, p.runs, request, out)


def ended(runs: "list[Run]") -> str:
    """Return how many runs are done, and how many diverged or failed."""
    counts = Counter(run.status for run in runs)
    others = [f"{counts[status]} {status}" for status in ("diverged", "failed") if counts[status]]
    return ", ".join([f"{counts['finished']} done", *others])


def write_results(p: Plan, runs: "list[Run]", request: Request, out: Path) -> "Summary":
    """Write an artefact's files into the folder `out`, and print its table.
    Raises UserError if no run has the artefact's metric.
    """
    from results.artefact import metric_fault, write_artefact  # slow to import: needs matplotlib and scipy

    name, scale = p.artefact.name, request.options["scale"]
    if fault := metric_fault(p.artefact, runs):
        raise UserError(f"{p.artefact.file}: {fault}")
    seeds, command = tuning_seeds(p.configs), command_of(name, request)
    made = write_artefact(p.artefact, scale, runs, out, expected=len(p.configs), seeds=seeds, command=command)
    print(made.text, flush=True)
    return made


class NothingCommitted(UserError):
    """An artefact has no committed run."""


def committed_plan(artefact: Artefact, request: Request) -> Plan:
    """Return an artefact with its committed runs and nothing to do. Report the runs that are missing.
    Raises NothingCommitted if all are.
    """
    name = artefact.name
    configs, runs = expand_and_read(artefact, request.options, request.overrides, committed_runs)
    missing = sorted(configs.keys() - {run.run_id for run in runs})
    files = " and ".join(sorted({str(records_file(cfg)) for cfg in configs.values()}))
    if not runs:
        raise NothingCommitted(f"{name}: none of its {len(configs)} runs is in {files}; records=runs trains them")
    print(f"{name}: {len(configs)} runs, {len(runs)} in the committed records", flush=True)
    if missing:
        others = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        print(f"{name}: not in {files}: {', '.join(missing[:3])}{others}", flush=True)
    return Plan(artefact, list(configs.values()), runs, [])


def command_of(name: str, request: Request) -> str:
    """Return the command that the table shows, without keys that change no result."""
    left_out = (*records.NOT_IDENTITY, "jobs", "records", "results_dir", "wait")
    given = {"scale": request.options["scale"]} | request.given
    narrowed = [f"{key}={value}" for key, value in given.items() if key.partition(".")[0] not in left_out]
    return " ".join(["python scripts/reproduce.py", name, *narrowed])


def train(todo: list[DictConfig], options: dict[str, str], name: str, progress: Progress | None = None) -> bool:
    """Hand the runs to the launcher. Return whether they have ended when it returns."""
    if todo[0].launcher.name == "local" and todo[0].gpus > 1:
        train_together(todo, name)
        return True
    if todo[0].launcher.name == "local":
        run_all(todo, jobs_of(options, todo[0].device), name, progress)
        return True
    from scripts.sweep.watch import submit_missing, train_on_cluster

    if options["wait"] == "true":
        train_on_cluster(todo, name)
        return True
    submit_missing(todo, name)
    return False


def main(arguments: list[str]) -> None:
    """Parse ARTEFACT... key=value... and reproduce each artefact in turn."""
    request = COMMAND.parse(arguments)
    asked = asked_for(request)
    if "budget" in request.options:
        show_budget(asked, request)
        return
    if request.options["records"] == "committed":
        plans = [committed_plan(artefact, own) for artefact, own in asked]
        if "dry-run" not in request.flags:
            named = [(p, own, writable_folder(p, own)) for p, (_, own) in zip(plans, asked, strict=True)]
            say_at_the_end([write_results(p, p.runs, own, out) for p, own, out in named])
        return
    if "dry-run" in request.flags:
        for artefact, own in asked:
            dry_run(artefact, own)
        return
    plans = [plan(artefact, own.options, own.overrides) for artefact, own in asked]
    folders = [writable_folder(p, own) for p, (_, own) in zip(plans, asked, strict=True)]
    prepare(plans, request.options.get("jobs", 1))
    todo = {records.run_id(cfg): cfg for p in plans for cfg in p.todo}
    title = plans[0].artefact.name if len(plans) == 1 else f"{len(plans)} artefacts"
    with Progress(title, list(todo.values()), expected_seconds(plans, [own for _, own in asked])) as progress:
        made = [reproduce(p, own, out, progress) for p, (_, own), out in zip(plans, asked, folders, strict=True)]
    rehearsed = request.options["scale"] == fake.SCALE
    say_at_the_end([summary for _, summary in filter(None, made)], into_the_report=not rehearsed)


def expected_seconds(plans: list[Plan], requests: list[Request]) -> Callable[[DictConfig], float]:
    """Return how to look up the expected time of a run. Without any price, all steps cost the same."""
    by_task: dict[str, Prices] = {}
    for p, own in zip(plans, requests, strict=True):
        by_task |= dict.fromkeys({cfg.task.name for cfg in p.todo}, Prices(p.artefact, own, []))

    def seconds(cfg: DictConfig) -> float:
        return by_task[cfg.task.name].whole(cfg).seconds or cfg.num_steps

    return seconds


def say_at_the_end(made: "list[Summary]", into_the_report: bool = True) -> None:
    """Print the findings in words, the files to open, and the next command, if the report has these artefacts."""
    for one in made:
        if one.findings:
            print(one.findings)
    for one in made:
        print(
            *(os.path.relpath(path) for name in ("table.md", "figure.png") for path in one.files if path.name == name)
        )
    if made and into_the_report:
        print("next: make report writes results/index.html, one page with every artefact")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
