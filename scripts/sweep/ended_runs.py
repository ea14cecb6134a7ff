"""Find the runs of configurations that have ended: in their folders, and among the committed records."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from results.runs import Run
from scripts.sweep.committed_runs import committed_runs
from scripts.sweep.run_folders import ended_run
from tasks.engine import records


def ended_runs(configs: Mapping[str, DictConfig], *, set_aside: bool = False) -> list[Run]:
    """Return the runs that have ended, from their folders. `set_aside` is that of `ended_run`."""
    found = (ended_run(records.run_folder(cfg, run_id), set_aside=set_aside) for run_id, cfg in configs.items())
    return [run for run in found if run is not None]


def every_run(configs: Mapping[str, DictConfig], *, set_aside: bool = False) -> list[Run]:
    """Return the runs that have ended, in their folders or among the committed records."""
    return with_committed(configs, ended_runs(configs, set_aside=set_aside))


def with_committed(configs: Mapping[str, DictConfig], here: Sequence[Run]) -> list[Run]:
    """Return the runs `here` and the committed ones, in the order of `configs`.
    A run that is both comes from `here`, unless it failed here. Committed runs have a result.
    """
    failed, others = ([run for run in here if (run.status == "failed") == which] for which in (True, False))
    found = {run.run_id: run for run in (*failed, *committed_runs(configs), *others)}
    return [found[run_id] for run_id in configs if run_id in found]


def source_of_runs(options: Mapping[str, Any]) -> Callable[..., list[Run]]:
    """Return how to find ended runs: with records=both among the committed ones too."""
    return every_run if options.get("records") == "both" else ended_runs
