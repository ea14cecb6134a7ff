"""Rehearse the paper's scale on fake data:  python scripts/rehearse.py imagenet

For each task: make fake data in its owner's format (scripts/fake_data.py), prepare it
(scripts/prepare_data.py), train 3 steps of each panel of an artefact of the paper with
scale=rehearsal (configs/scale/rehearsal), evaluate, and write the artefact's table into FOLDER/results.
Builds the models of paper scale without memory, and compares their number of parameters. Needs no
network. A task that fails is reported at the end, and the others go on.

The same command resumes: what is made, prepared or trained is not done again. Delete the folder to
begin anew.
"""

import os
import sys
from pathlib import Path

from scripts.cli import early

if __name__ == "__main__":
    early.importing()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks the hub


import time

from scripts import fake_data, reproduce
from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import ROOT, Command, Key, Names, nearest
from scripts.prepare_data import prepare_task
from scripts.sweep import full_size
from scripts.sweep.local import jobs_of, run_all
from tasks.engine import fake, records
from tasks.engine.errors import TrainingFailed, UserError

# The artefact of each task that is rehearsed, the cheapest task first.
ARTEFACTS = {
    "grokking": ["grokking"],
    "cifar100": ["figure2"],
    "cifar100c": ["figure_e5"],
    "gpt2": ["figure3"],
    "imagenet": ["table1"],
    "resnet50": ["resnet50"],
    "clip": ["table2"],
    "lora": ["figure4"],
    "segmentation": ["table_j1", "amos22"],
}
FULL_SIZE = {
    "gpt2": ["gpt2", "gpt2m", "gpt2l", "gpt2xl"],
    "imagenet": ["imagenet", "deit_base"],
    "segmentation": ["segmentation", "segmentation_btcv", "segmentation_brats"],
    "grokking": [],  # trained at its full size
}
COMMAND = Command(
    "scripts/rehearse.py",
    __doc__,
    Names("TASK", f"tasks of {', '.join(ARTEFACTS)} (default: all)", example="imagenet"),
    (
        Key("folder", "the folder of data, runs and results", without="build/rehearsal"),
        Key("jobs", "runs at the same time", without="one per core"),
    ),
)


def rehearse(task: str, folder: Path, jobs: list[str]) -> str:
    """Rehearse a task. Return a line that says what was done, in how many seconds.

    Raises:
        UserError: a package is missing, or the folder can't be used.
        TrainingFailed: a run ended without a result, or a model has another size than the paper's.
    """
    begin, data, runs = time.monotonic(), folder / "data", folder / "runs"
    sets = fake_data.make(task, [], data)
    prepare_task(task, sets, data)
    keys = [f"scale={fake.SCALE}", f"data_dir={data}", f"runs_dir={runs}"]
    for artefact in ARTEFACTS[task]:
        reproduce.main([artefact, *keys, f"results_dir={folder / 'results'}", *jobs])
    other_forms(task, sets, keys, jobs)
    name = compose_config([f"task={task}"]).task.name
    ended = {path.parent: records.read_record(path.parent) for path in runs.glob(f"{name}/*/record.json")}
    if failed := [path for path, record in ended.items() if record is None or record["status"] != "finished"]:
        raise TrainingFailed(f"{task}: {failed[0]} ended without a result; python scripts/show.py {failed[0]}")
    sizes = [f"{one} {full_size.counted(one):,}" for one in FULL_SIZE.get(task, [task])]
    built = f"; parameters at full size as expected: {', '.join(sizes)}" if sizes else ""
    tables = ", ".join(str(folder / "results" / fake.SCALE / name / "table.md") for name in ARTEFACTS[task])
    made = f"fake {', '.join(sets)}" if sets else "its own data"
    return f"{task}: {made}, 3 steps a run, {tables}{built}; {time.monotonic() - begin:.0f} s"


def other_forms(task: str, sets: list[str], keys: list[str], jobs: list[str]) -> None:
    """Train one run on each other form of the task's data, such as shards in place of folders."""
    if task not in ("imagenet", "clip"):
        return
    shared = [f"task={task}", "regularizer=adamcpr_ws", "regularizer.warm_start=1x", "quiet=true", *keys]
    configs = [compose_config([*shared, f"task.data.name={name}"]) for name in sets]
    todo = [cfg for cfg in configs if not records.has_record(cfg)]
    run_all(todo, jobs_of(dict(one.split("=") for one in jobs), "cpu"), task)


def main(arguments: list[str]) -> None:
    """Rehearse the named tasks."""
    request = COMMAND.parse(arguments)
    if unknown := [name for name in request.names if name not in ARTEFACTS]:
        raise UserError(f"task {unknown[0]!r} can't be rehearsed{nearest(unknown[0], list(ARTEFACTS))}")
    folder = Path(request.options.get("folder", ROOT / "build" / "rehearsal"))
    jobs = [f"jobs={request.options['jobs']}"] if "jobs" in request.options else []
    lines, failures = [], []
    for task in request.names or ARTEFACTS:
        print(f"--- {task}", flush=True)
        try:
            lines.append(rehearse(task, folder, jobs))
        except (UserError, TrainingFailed) as error:
            failures.append(f"{task}: {error}")
    print(*lines, sep="\n")
    if failures:
        raise TrainingFailed("; ".join(failures))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
