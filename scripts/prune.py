"""Remove the checkpoints of finished runs:  python scripts/prune.py figure2

A finished run's checkpoints, including those set aside as damaged, are needed only if its record or
logs get damaged. Without its checkpoint the run then starts again from step 0. Running, queued, stale
and failed runs are left alone, and so are all records and logs.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.cli.common import confirmed, one_line_errors
from scripts.cli.parser import Names, Request, sweep_command
from scripts.cli.tables import show, size
from scripts.sweep.artefacts import asked_for, known_artefacts, load_artefact
from scripts.sweep.grids import grids_of
from scripts.sweep.plan import expand
from scripts.sweep.queue import in_queue
from scripts.sweep.states import whole_record
from tasks.engine import records
from tasks.engine.errors import Held
from tasks.engine.files import is_held, only_process

COMMAND = sweep_command(
    "scripts/prune.py",
    __doc__,
    Names("ARTEFACT", "artefacts of configs/artefact/ (default: all)"),
    flags={
        "orphans": "add the finished runs that belong to no artefact: runs of train.py, of other keys, "
        "or of configurations that have changed",
        "yes": "do not ask for confirmation",
    },
)
CHECKPOINTS = ("checkpoint*", ".checkpoint*.tmp")  # .tmp: left by a process that was killed while writing


@dataclass(frozen=True)
class Group:
    """Finished runs that have checkpoints, with the name that they are listed under."""

    name: str
    folders: list[Path]

    def files(self) -> list[Path]:
        return [path for folder in self.folders for path in checkpoints(folder)]

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())


def checkpoints(folder: Path) -> list[Path]:
    return [path for pattern in CHECKPOINTS for path in folder.glob(pattern)]


def groups(request: Request) -> list[Group]:
    """Return the prunable runs of each artefact, then the orphans if asked for. No run appears twice."""
    found: list[Group] = []
    seen: set[Path] = set()
    queued: set[str] = set()
    runs_dir = Path()
    for artefact, own in asked_for(request):
        configs = expand(artefact, own.options, own.overrides)
        if not found:
            runs_dir = Path(next(iter(configs.values())).runs_dir)
            queued = set(in_queue(runs_dir))
        folders = [folder for run_id, cfg in configs.items() if (folder := records.run_folder(cfg, run_id)) not in seen]
        seen.update(folders)
        found.append(Group(artefact.name, [folder for folder in folders if is_prunable(folder, queued)]))
    if "orphans" in request.flags:
        folders = [path.parent for path in sorted(runs_dir.glob("*/*/record.json")) if path.parent not in seen]
        folders = [folder for folder in folders if is_prunable(folder, queued)]
        theirs = owned(runs_dir, folders)
        found.append(Group("orphans", [folder for folder in folders if folder not in theirs]))
    return found


def owned(runs_dir: Path, folders: list[Path]) -> set[Path]:
    """Return the folders of all runs that artefacts define, for the scales and regularizers of `folders`.
    The result may have more folders than `folders`.
    """
    configs = [record["config"] for folder in folders if (record := whole_record(folder))]
    wanted = {(config["scale"], config["regularizer"]["name"]) for config in configs}
    found: set[Path] = set()
    for artefact in map(load_artefact, known_artefacts()):
        for scale, choice in artefact.scales.items():
            grids = [grid for grid in choice.grids if (scale, grid.regularizer) in wanted]
            narrowed = artefact.model_copy(update={"scales": {scale: choice.model_copy(update={"grids": grids})}})
            options, overrides = {"scale": scale}, {"runs_dir": str(runs_dir)}
            every = grids_of(narrowed, options, overrides)
            if grids and choice.finalists:  # which ones they are follows from all runs of the artefact
                every.append(expand(artefact, options, overrides))
            for runs in every:
                found |= {records.run_folder(cfg, run_id) for run_id, cfg in runs.items()}
    return found


def is_prunable(folder: Path, queued: set[str]) -> bool:
    """Return whether the run is finished and has checkpoints, and no process or queued job works on it."""
    return bool(checkpoints(folder)) and folder.name not in queued and not is_held(folder) and is_finished(folder)


def is_finished(folder: Path) -> bool:
    """Return whether the run has finished, with an intact record and logs."""
    record = whole_record(folder)
    if record is None or record["status"] != "finished":
        return False
    try:
        records.check_logs(folder, record)
    except records.DamagedRecord:
        return False
    return True


def prune(folder: Path) -> int:
    """Remove the checkpoints and return the freed bytes, or 0 if a process now works on the run."""
    freed = 0
    with contextlib.suppress(Held), only_process(folder):
        if not is_finished(folder):
            return 0
        for path in checkpoints(folder):
            freed += path.stat().st_size
            path.unlink()
    return freed


def main(arguments: list[str]) -> None:
    """Show what would be freed, ask, and free it."""
    request = COMMAND.parse(arguments)
    found = groups(request)
    folders = [folder for group in found for folder in group.folders]
    if not folders:
        print("no finished run has a checkpoint; nothing to remove")
        return
    show(("runs of", "finished runs", "checkpoints", "size"), [_row(group) for group in found])
    if not confirmed(
        f"Remove {sum(len(group.files()) for group in found)} checkpoints, {size(sum(group.bytes() for group in found))}?",
        "yes" in request.flags,
    ):
        print("nothing was removed")
        return
    print(f"freed {size(sum(prune(folder) for folder in folders))}")


def _row(group: Group) -> list[str]:
    return [group.name, str(len(group.folders)), str(len(group.files())), size(group.bytes())]


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
