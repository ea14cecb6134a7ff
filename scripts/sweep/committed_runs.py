"""Take the runs of configurations from results/<scale>/records in place of folders of runs."""

import functools
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from results.committed import DamagedRecords, path_of, read_records
from results.runs import Run
from scripts.cli.parser import ROOT
from tasks.engine.errors import UserError

FOLDER = ROOT / "results"


def committed_runs(configs: Mapping[str, DictConfig]) -> list[Run]:
    """Return the committed runs of configurations by run id.
    Raises UserError for a damaged file.
    """
    found: dict[str, Run] = {}
    for scale, task in dict.fromkeys((cfg.scale, cfg.task.name) for cfg in configs.values()):
        found |= _by_id(FOLDER, scale, task)
    return [found[run_id] for run_id in configs if run_id in found]


def records_file(cfg: DictConfig) -> Path:
    """Return the file that has a configuration's run once it is committed."""
    return path_of(FOLDER, cfg.scale, cfg.task.name)


@functools.cache  # artefacts share runs
def _by_id(folder: Path, scale: str, task: str) -> dict[str, Run]:
    try:
        return {run.run_id: run for run in read_records(folder, scale, task)}
    except DamagedRecords as damage:
        raise UserError(str(damage)) from None
