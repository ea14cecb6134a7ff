"""Records of every artefact's mini runs as files (scripts/bench/made_records.py)."""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scripts.bench.made_records import metrics_of, write_run
from scripts.sweep.plan import expand, load_artefact


@cache  # Hydra takes seconds for all artefacts
def mini(name: str) -> dict[str, DictConfig]:
    """Return the configurations of an artefact's mini runs by run id, with the default runs_dir."""
    return expand(load_artefact(name), {"scale": "mini"}, {})


def expand_once(artefact: dict[str, Any], options: dict[str, str], overrides: dict[str, str]) -> dict[str, DictConfig]:
    """Replace `scripts.sweep.plan.expand` in a test whose current folder has the runs."""
    assert options["scale"] == "mini" and not overrides
    return mini(artefact["name"])


def write_artefact_runs(runs_dir: Path, name: str) -> list[Path]:
    """Write the folders of all mini runs of an artefact."""
    return [write_run(runs_dir, cfg, metrics_of(name)) for cfg in mini(name).values()]
