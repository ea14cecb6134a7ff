"""Records of every artefact's mini runs as files (scripts/bench/made_records.py)."""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from results.schema import Artefact
from scripts.bench.made_records import metrics_of, write_run
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.plan import before_finalists


@cache  # Hydra takes seconds for all artefacts
def mini(name: str) -> dict[str, DictConfig]:
    """Return the configurations of an artefact's mini runs by run id, with the default runs_dir."""
    return before_finalists(load_artefact(name), {"scale": "mini"}, {})


def mini_artefacts() -> list[str]:
    """Return the artefacts that have a mini scale."""
    return [name for name in known_artefacts() if "mini" in load_artefact(name).scales]


def expand_once(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> dict[str, DictConfig]:
    """In place of `scripts.sweep.plan.before_finalists`, where a test stands in the folder that has the runs."""
    if options["scale"] != "mini":
        return before_finalists(artefact, options, overrides)
    assert not overrides
    return mini(artefact.name)


def write_artefact_runs(runs_dir: Path, name: str) -> list[Path]:
    """Write the folders of all mini runs of an artefact."""
    return [write_run(runs_dir, cfg, metrics_of(name)) for cfg in mini(name).values()]
