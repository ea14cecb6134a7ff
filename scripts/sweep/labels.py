"""Name what tells an artefact's runs apart: in tables with whole keys, in a run's name with short ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.runs import flatten
from results.schema import Artefact, Grid
from scripts.cli.parser import Request
from tasks.engine import records

DESCRIPTION = "task.data.description"  # for people, and not part of the run's id


def telling_keys(artefact: Artefact, request: Request, configs: Sequence[DictConfig]) -> list[str]:
    """Return the keys that tell an artefact's runs apart, beside regularizer and seed.
    These are its axes. Other keys, such as a model's size, follow where axes are not enough.
    """
    keys = axes_of(artefact.scales[request.options["scale"]].grids, request.overrides)
    keys = ["task.name"] * (len({cfg.task.name for cfg in configs}) > 1) + keys
    known: dict[tuple[str, str, int], DictConfig] = {}
    for cfg in configs:
        while (other := known.setdefault(_place(cfg, keys), cfg)) is not cfg:
            here, there = (flatten(records.identity(one)) for one in (cfg, other))
            more = [key for key in here | there if str(here.get(key)) != str(there.get(key)) and key != DESCRIPTION]
            keys.append(more[0])
            known = {_place(one, keys): one for one in known.values()}
    return keys


def _place(cfg: DictConfig, keys: Sequence[str]) -> tuple[str, str, int]:
    return cfg.regularizer.name, differing(cfg, keys), cfg.seed


def axes_of(grids: Sequence[Grid], overrides: Mapping[str, Any]) -> list[str]:
    """Return the keys along which the runs of some grids differ, without those that an override sets."""
    keys = dict.fromkeys(key for grid in grids for key in grid.axes if key not in overrides)
    return [key for key in keys if _is_axis([grid.axes.get(key) for grid in grids])]


def _is_axis(values: list[Any]) -> bool:
    """Return whether a key has several values, in one grid or in two."""
    several = any(isinstance(value, list) and len(value) > 1 for value in values)
    return several or len({str(value) for value in values if value is not None}) > 1


def differing(cfg: DictConfig, keys: Iterable[str]) -> str:
    """Return key=value for those keys that the run has."""
    return " ".join(f"{key}={value}" for key, value in _values(cfg, keys).items())


def note_in_wandb(cfg: DictConfig, artefact: str | None, keys: Iterable[str], task: str | None = None) -> None:
    """Set the group and the label of a run that logs to wandb. The run's id doesn't depend on them.

    Args:
        artefact: the artefact that the run is trained for.
        keys: what tells the run from others. Keys that can't change a result are left out of the label.
        task: the task's file, if the artefact has several.
    """
    if cfg.logging.name == "none":
        return
    bare = (key.lstrip("+~") for key in keys)
    named = [key for key in bare if key not in ("task", "regularizer", "scale", "seed") and not _is_outside(key)]
    named.sort(key=lambda key: (key != "lr", not key.startswith("regularizer.")))
    settings = [f"{key.rpartition('.')[2]}={value}" for key, value in _values(cfg, named).items()]
    cfg.logging.artefact = cfg.logging.artefact or artefact
    cfg.logging.label = cfg.logging.label or " ".join([task, *settings] if task else settings) or None


def _is_outside(key: str) -> bool:
    return key.partition(".")[0] in (*records.NOT_IDENTITY, "hydra")


def _values(cfg: DictConfig, keys: Iterable[str]) -> dict[str, Any]:
    found = {key: OmegaConf.select(cfg, key) for key in keys}
    return {key: value for key, value in found.items() if value is not None}
