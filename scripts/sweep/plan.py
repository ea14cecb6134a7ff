"""List an artefact's runs with its finalists, and find those that are left to do."""

import functools
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.cells import published_best
from results.runs import Run, label, power_of_ten
from results.schema import FIRST_FRESH_SEED, Artefact, Panel, at_scale
from scripts.sweep.ended_runs import ended_runs, source_of_runs
from scripts.sweep.grids import expand_grids
from scripts.sweep.rehearsed import one_of_each
from tasks.engine import records
from tasks.engine.errors import UserError
from tasks.engine.fake import SCALE as REHEARSAL


def expand(
    artefact: Artefact,
    options: dict[str, Any],
    overrides: dict[str, str],
    runs_of: Callable[[Mapping[str, DictConfig]], list[Run]] = ended_runs,
) -> dict[str, DictConfig]:
    """Return run id -> configuration: the artefact's grids, and its finalists once the grids' runs have ended.

    Args:
        runs_of: returns those runs of configurations that exist. They choose the finalists.
    """
    configs = before_finalists(artefact, options, overrides)
    if seeds := fresh_seeds(artefact, options):
        configs |= finalists(at_scale(artefact, options["scale"]), configs, runs_of(configs), seeds)
    return configs


def expand_and_read(
    artefact: Artefact,
    options: dict[str, Any],
    overrides: dict[str, str],
    runs_of: Callable[[Mapping[str, DictConfig]], list[Run]],
) -> tuple[dict[str, DictConfig], list[Run]]:
    """Return what `expand` does, and those of its runs that exist. Each run is read once."""
    configs = before_finalists(artefact, options, overrides)
    runs = runs_of(configs)
    if seeds := fresh_seeds(artefact, options):
        chosen = finalists(at_scale(artefact, options["scale"]), configs, runs, seeds)
        more = {run_id: cfg for run_id, cfg in chosen.items() if run_id not in configs}
        configs, runs = configs | more, runs + runs_of(more)
    return configs, runs


def before_finalists(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> dict[str, DictConfig]:
    """Return run id -> configuration: the artefact's grids, or the part of them that a rehearsal or cells=best has."""
    configs = expand_grids(artefact, options, overrides)
    if options["scale"] == REHEARSAL:
        configs = one_of_each(at_scale(artefact, REHEARSAL), configs)
    if options.get("cells") == "best":
        configs = best_cells(at_scale(artefact, options["scale"]), configs)
    return configs


def best_cells(artefact: Artefact, configs: dict[str, DictConfig]) -> dict[str, DictConfig]:
    """Return the runs of each panel's best published cell.
    Raises UserError if the paper prints no values of the artefact.
    """
    best = published_best(artefact) if artefact.layout == "heatmap" else {}
    if not best:
        raise UserError(
            f"cells=best needs published values, and the paper prints none of {artefact.name}; use cells=all"
        )
    kept: dict[str, DictConfig] = {}
    for panel in artefact.panels:
        if (cell := best.get(panel.title)) is not None:
            kept |= {run_id: cfg for run_id, cfg in configs.items() if _in_cell(artefact, panel, cell, cfg)}
    if not kept:
        raise UserError(
            f"cells=best finds none of {artefact.name}'s best published cells at this scale; use cells=all or scale=paper"
        )
    return kept


def _in_cell(artefact: Artefact, panel: Panel, cell: Any, cfg: DictConfig) -> bool:
    wanted = {"regularizer.name": panel.regularizer} | panel.select
    if any(OmegaConf.select(cfg, key) != value for key, value in wanted.items()):
        return False
    row = power_of_ten(float(OmegaConf.select(cfg, artefact.row))) == power_of_ten(cell["row"])
    return row and (panel.column is None or label(OmegaConf.select(cfg, panel.column)) == cell["column"])


def fresh_seeds(artefact: Artefact, options: dict[str, Any]) -> list[int]:
    """Return the seeds of the finalists: those asked for, else the artefact's. None if other seeds are asked for."""
    own = 0 if "seeds" in options else artefact.scales[options["scale"]].finalists
    return [FIRST_FRESH_SEED + number for number in range(options.get("finalists", own))]


def finalists(
    artefact: Artefact, configs: Mapping[str, DictConfig], runs: Sequence[Run], seeds: Sequence[int]
) -> dict[str, DictConfig]:
    """Return the configurations of each method's chosen setting on fresh seeds. Empty before all `runs` have ended."""
    if len([run for run in runs if run.status != "failed"]) < len(configs):
        return {}
    from results.evidence.contenders import choose, contenders  # slow to import: needs scipy

    found = {}
    for contender in contenders(artefact, runs):
        for seed in seeds if (chosen := choose(artefact, contender, runs)) else ():
            cfg = pickle.loads(pickle.dumps(configs[chosen[0].run_id]))
            cfg.seed = seed
            found[records.run_id(cfg)] = cfg
    return found


def tuning_seeds(configs: Iterable[DictConfig]) -> int:
    """Return the number of seeds that choose settings: those of the grids, without the finalists'."""
    seeds = {cfg.seed for cfg in configs}
    return len({seed for seed in seeds if seed < FIRST_FRESH_SEED} or seeds)


@dataclass
class Plan:
    """An artefact with its configurations, the runs that have ended, and those that are left to do."""

    artefact: Artefact
    configs: list[DictConfig]
    runs: list[Run]
    todo: list[DictConfig]


def plan(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> Plan:
    """Read what has ended, and return the plan."""
    runs_of = functools.partial(source_of_runs(options), set_aside=True)
    configs, runs = expand_and_read(artefact, options, overrides, runs_of)
    done = {run.run_id for run in runs}
    return Plan(artefact, list(configs.values()), runs, [cfg for run_id, cfg in configs.items() if run_id not in done])
