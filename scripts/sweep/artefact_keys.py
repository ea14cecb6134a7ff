"""Check, before any run, that the keys that an artefact names exist and tell its runs apart."""

import functools
import pickle
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.artefact_file import nearest
from results.schema import Artefact, BestValueClaim, Grid, Panel, SameValuesClaim, as_column, at_scale, names_of
from scripts.cli.overrides import keys_of
from tasks.engine.errors import UserError


def check_grid(artefact: str, grid: Grid, base: bytes) -> None:
    """Raise UserError for a grid's key that its task and regularizer do not have.
    `base` is their composed configuration, pickled.
    """
    known = _keys(base)
    for key in grid.axes:
        if key not in known:
            raise UserError(f"{artefact}.yaml: {grid.regularizer} has no key {key}{nearest(key, known)}")


@functools.cache
def _keys(base: bytes) -> list[str]:
    return keys_of(pickle.loads(base))


def check_cells(artefact: Artefact, scale: str, configs: Mapping[str, DictConfig]) -> None:
    """Raise UserError for a faulty panel or method.
    It is faulty if a run lacks one of its keys, or if it mixes runs in one cell.

    Args:
        artefact: as `read_artefact` returns it.
        scale: the scale of the configurations.
        configs: configurations by run id.
    """
    by_name: dict[str, dict[str, DictConfig]] = {}
    for run_id, cfg in configs.items():
        by_name.setdefault(cfg.regularizer.name, {})[run_id] = cfg
    artefact = at_scale(artefact, scale)
    columns: dict[str, set[str]] = {}
    for group in (*artefact.panels, *artefact.methods):
        chosen = by_name.get(group.regularizer, {})
        said = f"{artefact.name}.yaml: {group.title!r}"
        for key, wanted in group.select.items():
            chosen = {run_id: cfg for run_id, cfg in chosen.items() if _value(said, cfg, key) == wanted}
        if isinstance(group, Panel) and group.column:
            columns[group.name] = {as_column(_value(said, cfg, group.column)) for cfg in chosen.values()}
        axes = [artefact.row, *filter(None, [group.column])] if isinstance(group, Panel) else []
        cells: dict[tuple[Any, ...], str] = {}
        for run_id, cfg in chosen.items() if axes else ():
            cell = (*(str(_value(said, cfg, key)) for key in axes), cfg.seed)
            if cells.setdefault(cell, run_id) != run_id:
                raise UserError(
                    f"{said} has two runs of one cell and seed, {cells[cell]} and {run_id}: name what differs in column or select"
                )

    _check_values(artefact, columns)


def _check_values(artefact: Artefact, columns: Mapping[str, set[str]]) -> None:
    """Raise UserError for a claim on a value that no column of its panels has."""
    for claim in artefact.claims:
        if not isinstance(claim, BestValueClaim | SameValuesClaim):
            continue
        known = sorted(set().union(*(columns.get(name, set()) for name in names_of(claim.left))))
        if len(known) > 1 and claim.value not in known:  # an override may have narrowed the axis to one value
            where = f"{artefact.name}.yaml: claim {claim.id!r}"
            raise UserError(f"{where}: value={claim.value} is not a column; choose one of {', '.join(known)}")


def _value(said: str, cfg: DictConfig, key: str) -> Any:
    found = OmegaConf.select(cfg, key, default=_MISSING)
    if found is _MISSING:
        raise UserError(f"{said}: {cfg.regularizer.name} has no key {key}{nearest(key, keys_of(cfg))}")
    return found


_MISSING = object()
