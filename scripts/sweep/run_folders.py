"""Find runs: those that tables are made of, and those that a user names by folder or run id."""

import glob
from collections.abc import Mapping
from pathlib import Path

import yaml

from results.runs import Run, flatten
from scripts.sweep.states import last_step
from tasks.engine import records
from tasks.engine.errors import Unusable, UserError, one_line
from tasks.engine.files import is_held
from tasks.engine.terminal import say

CONFIG = "config.yaml"  # missing in runs without a model
# Keys of a configuration that are shown for every run.
SHOWN = ("task.name", "task.data.description", "regularizer.name", "scale", "seed", "lr", "num_steps")


def ended_run(folder: Path, *, set_aside: bool = True) -> Run | None:
    """Return the run in a folder if it has ended and its files are intact.
    A damaged run is reported and appears in no table.

    Args:
        set_aside: rename a damaged record, so that the run is trained again. Otherwise change nothing.
    """
    try:
        if set_aside:
            record = records.ended(folder, say)
        elif (record := records.read_record(folder)) is not None:
            records.check_logs(folder, record)
    except (records.DamagedRecord, Unusable) as damage:
        say(f"{damage}{'' if set_aside else '; left out'}")
        return None
    return None if record is None else Run.read(folder, record)


def state_of(run: Run) -> str:
    """Return a found run's status with its reason, or its progress."""
    if run.record:
        return ": ".join(filter(None, (run.status, run.record["reason"])))
    assert run.folder is not None
    return f"{'running' if is_held(run.folder) else 'not ended'}, step {last_step(run.folder)} of {run.num_steps}"


def points(run: Run, name: str) -> list[tuple[int, float]]:
    """Return steps and values of one metric of a run that may be in progress."""
    return [(row["step"], row[name]) for row in run.metrics if "step" in row and isinstance(row.get(name), int | float)]


def find(name: str, runs_dir: Path) -> Run:
    """Return the run in the folder `name`, or with a run id that starts with `name`.
    Raises UserError if there is none, or more than one.
    """
    folder = Path(name)
    if not folder.is_dir():
        folders = sorted(
            {
                path.parent
                for file in (CONFIG, "record.json")
                for path in runs_dir.glob(f"*/{glob.escape(name)}*/{file}")
            }
        )
        exact = [path for path in folders if path.name == name]
        folders = exact or folders
        if not folders:
            raise UserError(
                f"run {name!r} is neither a folder nor the beginning of a run id in {runs_dir}/; set runs_dir= to another folder"
            )
        if len(folders) > 1:
            raise UserError(
                f"run {name!r} is not unique: {', '.join(str(path) for path in folders[:5])}{', ...' * (len(folders) > 5)}"
            )
        folder = folders[0]
    try:
        record = records.read_record(folder)
    except records.DamagedRecord as damage:
        say(f"{damage}; showing the run without it")
        record = None
    if record is None and not (folder / CONFIG).exists():
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    try:
        run = Run.read(folder, record or {})
    except yaml.YAMLError as error:
        raise UserError(f"{folder / CONFIG} is not valid YAML: {one_line(error)}") from error
    keys = flatten(run.config) if isinstance(run.config, Mapping) else {}
    if lacking := [key for key in SHOWN if key not in keys]:
        raise UserError(f"{folder} is not the folder of a run: its configuration has no {lacking[0]}")
    return run
