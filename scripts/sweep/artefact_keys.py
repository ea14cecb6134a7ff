"""Check, before any run, that the keys that an artefact names exist and tell its runs apart."""

import functools
import itertools
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.artefact_file import nearest
from results.schema import (
    Artefact,
    BestValueClaim,
    Grid,
    Panel,
    SameValuesClaim,
    Selection,
    as_column,
    at_scale,
    names_of,
)
from scripts.cli.overrides import keys_in
from tasks.engine.errors import UserError


def check_grid(file: str, grid: Grid, base: bytes) -> None:
    """Raise UserError for a grid's key that its task and regularizer do not have.
    `base` is their composed configuration, pickled.
    """
    known = _keys(base)
    for key in grid.axes:
        if key not in known:
            raise UserError(f"{file}: {grid.regularizer} has no key {key}{nearest(key, known)}")


@functools.cache
def _keys(base: bytes) -> list[str]:
    return keys_in(pickle.loads(base))


def check_cells(artefact: Artefact, scale: str, configs: Mapping[str, DictConfig]) -> None:
    """Raise UserError for a faulty panel or method.
    It is faulty if a run lacks one of its keys, or if it mixes runs in one cell.

    Args:
        artefact: as `read_artefact` returns it.
        scale: the scale of the configurations.
        configs: configurations by run id.
    """
    artefact = at_scale(artefact, scale)
    shape = {**artefact.transfer.shape, **artefact.transfer.tuned} if artefact.transfer else {}
    for key, cfg in itertools.product(shape, configs.values()):
        _value(f"{artefact.file}: transfer", cfg, key)
    columns: dict[str, set[str]] = {}
    for group in (*artefact.panels, *artefact.methods):
        chosen = _runs_of(artefact, group, configs)
        said = _said(artefact, group)
        if isinstance(group, Panel) and group.column:
            columns[group.name] = {as_column(_value(said, cfg, group.column)) for cfg in chosen.values()}
        axes = [artefact.row, *filter(None, [group.column])] if isinstance(group, Panel) else []
        cells: dict[tuple[Any, ...], str] = {}
        for run_id, cfg in chosen.items() if axes else ():
            cell = (*(str(_value(said, cfg, key)) for key in axes), cfg.seed)
            if cells.setdefault(cell, run_id) != run_id:
                both = f"{cells[cell]} and {run_id}"
                raise UserError(
                    f"{said} has two runs of one cell and seed, {both}: name what differs in column or select"
                )

    _check_values(artefact, columns)


def check_filled(artefact: Artefact, scale: str, grids: Sequence[Mapping[str, DictConfig]]) -> None:
    """Raise UserError for a panel, method or part without runs, and for a grid whose runs are in none of them.

    Args:
        grids: configurations by run id, for each of the grids as the file has them.
    """
    artefact, shown = at_scale(artefact, scale), set()
    configs = {run_id: cfg for grid in grids for run_id, cfg in grid.items()}
    for group in (*artefact.panels, *artefact.methods):
        if not (runs := _runs_of(artefact, group, configs)):
            raise UserError(f"{_said(artefact, group)} has no run at scale {scale}: {_why_empty(group, configs)}")
        shown |= set(runs)
    for part in artefact.parts:
        runs = {run_id: cfg for run_id, cfg in configs.items() if cfg.task.name == part.task}
        said = f"{artefact.file}: part {part.title!r}"
        for value in artefact.pair.values:
            if all(_value(said, cfg, artefact.pair.key) != value for cfg in runs.values()):
                raise UserError(f"{said} has no run with {artefact.pair.key}={value} at scale {scale}")
        shown |= set(runs)
    for number, grid in enumerate(grids):
        if not shown & set(grid):
            regularizer = artefact.scales[scale].grids[number].regularizer
            where = f"{artefact.file}: scales.{scale}.grids.{number}"
            raise UserError(f"{where} trains {regularizer}, but no panel, method or part shows its runs")


def _said(artefact: Artefact, group: Selection) -> str:
    return f"{artefact.file}: {'panel' if isinstance(group, Panel) else 'method'} {group.title!r}"


def _runs_of(artefact: Artefact, group: Selection, configs: Mapping[str, DictConfig]) -> dict[str, DictConfig]:
    """Return the configurations that a panel or method shows. Raise UserError if one lacks a key of `select`."""
    chosen = {run_id: cfg for run_id, cfg in configs.items() if cfg.regularizer.name == group.regularizer}
    for key, wanted in group.select.items():
        chosen = {run_id: cfg for run_id, cfg in chosen.items() if _value(_said(artefact, group), cfg, key) == wanted}
    return chosen


def _why_empty(group: Selection, configs: Mapping[str, DictConfig]) -> str:
    """Return which of a group's choices leaves no run, with what the grids have instead."""
    left = [cfg for cfg in configs.values() if cfg.regularizer.name == group.regularizer]
    if not left:
        trained = sorted({cfg.regularizer.name for cfg in configs.values()})
        return f"no grid trains {group.regularizer}{nearest(group.regularizer, trained)}"
    for key, wanted in group.select.items():
        found = sorted({str(OmegaConf.select(cfg, key)) for cfg in left})
        left = [cfg for cfg in left if OmegaConf.select(cfg, key) == wanted]
        if not left:
            return f"no grid has select.{key}={wanted}{nearest(str(wanted), found)}"
    raise AssertionError(f"{group.title} has runs")


def _check_values(artefact: Artefact, columns: Mapping[str, set[str]]) -> None:
    """Raise UserError for a claim on a value that no column of its panels has."""
    for claim in artefact.claims:
        if not isinstance(claim, BestValueClaim | SameValuesClaim):
            continue
        known = sorted(set().union(*(columns.get(name, set()) for name in names_of(claim.left))))
        if len(known) > 1 and claim.value not in known:  # an override may have narrowed the axis to one value
            where = f"{artefact.file}: claim {claim.id!r}"
            raise UserError(f"{where}: value={claim.value} is not a column; choose one of {', '.join(known)}")


def _value(said: str, cfg: DictConfig, key: str) -> Any:
    found = OmegaConf.select(cfg, key, default=_MISSING)
    if found is _MISSING:
        raise UserError(f"{said}: {cfg.regularizer.name} has no key {key}{nearest(key, keys_in(cfg))}")
    return found


_MISSING = object()
