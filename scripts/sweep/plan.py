"""Expand an artefact's grids and find the runs that are left to do."""

import functools
import itertools
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.artefact_file import SchemaError, nearest, read_artefact
from results.cells import published_best
from results.runs import Run, label, power_of_ten
from results.schema import FIRST_FRESH_SEED, UNTUNED, Artefact, Grid, Panel, at_scale
from scripts.cli.common import compose_config
from scripts.cli.parser import CONFIG_DIR, Request
from scripts.sweep.artefact_keys import check_cells, check_grid
from scripts.sweep.run_folders import ended_run
from tasks.engine import records
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.terminal import say


def known_artefacts() -> list[str]:
    """Return the names of configs/artefact/*.yaml."""
    return sorted(path.stem for path in (CONFIG_DIR / "artefact").glob("*.yaml"))


def load_artefact(name: str) -> Artefact:
    """Return configs/artefact/<name>.yaml, checked.
    Raises UserError if it does not exist or one of its keys is unknown.
    """
    if name not in known_artefacts():
        raise UserError(f"artefact {name!r} is unknown{nearest(name, known_artefacts())}")
    try:
        artefact = read_artefact(CONFIG_DIR / "artefact" / f"{name}.yaml")
    except SchemaError as error:
        raise UserError(str(error)) from None
    scales = sorted(path.stem for path in (CONFIG_DIR / "scale").glob("*.yaml"))
    if unknown := [scale for scale in artefact.scales if scale not in scales]:
        raise UserError(f"{name}.yaml: scale {unknown[0]} is unknown{nearest(unknown[0], scales)}")
    return artefact


def asked_for(request: Request) -> list[tuple[Artefact, Request]]:
    """Return the named artefacts, each with its request. Without names, return all that have the scale."""
    if request.names:
        named = map(load_artefact, dict.fromkeys(request.names))
        return [(artefact, at_own_scale(artefact, request)) for artefact in named]
    every = map(load_artefact, known_artefacts())
    return [(artefact, request) for artefact in every if request.options["scale"] in artefact.scales]


def at_own_scale(artefact: Artefact, request: Request) -> Request:
    """Return the request at the artefact's first scale if it lacks the default one and none is asked for.
    Report this in one line.
    """
    if "scale" in request.given or request.options["scale"] in artefact.scales:
        return request
    own, default = next(iter(artefact.scales)), request.options["scale"]
    say(f"{artefact.name} has no {default} scale: scale={own}")
    return replace(request, given={"scale": own} | request.given, options=request.options | {"scale": own})


def expand(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> dict[str, DictConfig]:
    """Return run id -> configuration: the artefact's grids, and its finalists once the grids' runs have ended."""
    configs = expand_grids(artefact, options, overrides)
    if options.get("cells") == "best":
        configs = best_cells(at_scale(artefact, options["scale"]), configs)
    if seeds := fresh_seeds(artefact, options):
        configs |= finalists(artefact, options["scale"], configs, seeds)
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
    artefact: Artefact, scale: str, configs: dict[str, DictConfig], seeds: list[int]
) -> dict[str, DictConfig]:
    """Return the configurations of each method's chosen setting on fresh seeds. Empty before the grids' runs have ended."""
    runs = []
    for run_id, cfg in configs.items():
        run = ended_run(records.run_folder(cfg, run_id), set_aside=False)
        if run is None or run.status == "failed":
            return {}
        runs.append(run)
    from results.evidence.contenders import choose, contenders  # slow to import: needs scipy

    artefact, found = at_scale(artefact, scale), {}
    for contender in contenders(artefact, runs):
        for seed in seeds if (chosen := choose(artefact, contender, runs)) else ():
            cfg = pickle.loads(pickle.dumps(configs[chosen[0].run_id]))
            cfg.seed = seed
            found[records.run_id(cfg)] = cfg
    return found


def expand_grids(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> dict[str, DictConfig]:
    """Return run id -> configuration: the union of an artefact's grids, for every seed.
    An override of an axis narrows it to one value. Raises UserError for a value out of its range.
    """
    scale, scales = options["scale"], artefact.scales
    if scale not in scales:
        raise UserError(f"scale={scale!r} is unknown to {artefact.name}; choose one of {', '.join(scales)}")
    configs = {}
    for grid in scales[scale].grids:
        task = grid.task or artefact.task  # an artefact may span tasks, but a grid has one
        fixed = {"task": task, "regularizer": grid.regularizer, "scale": scale, "quiet": "true"} | overrides
        base = _composed(tuple(f"{key}={value}" for key, value in fixed.items()))
        check_grid(artefact.name, grid, base)
        narrowed = {key.lstrip("+") for key in fixed}
        axes = {"seed": seeds_of(artefact, grid, options)} | {
            key: value if isinstance(value, list) else [value]
            for key, value in grid.axes.items()
            if key not in narrowed
        }
        for values in itertools.product(*axes.values()):
            cfg = pickle.loads(base)  # six times as fast as DictConfig.copy()
            for key, value in zip(axes, values, strict=True):
                OmegaConf.update(cfg, key, value, merge=True)
            if cfg.seed == min(axes["seed"]):  # the other seeds of the cell differ in nothing else
                read_config(cfg)
            configs[records.run_id(cfg)] = cfg
    check_cells(artefact, scale, configs)
    return configs


def tuning_seeds(configs: Iterable[DictConfig]) -> int:
    """Return the number of seeds that choose settings: those of the grids, without the finalists'."""
    seeds = {cfg.seed for cfg in configs}
    return len({seed for seed in seeds if seed < FIRST_FRESH_SEED} or seeds)


@functools.cache
def _composed(overrides: tuple[str, ...]) -> bytes:
    """Return a configuration, pickled.
    Hydra takes 0.1 s to compose one, and many grids and artefacts share theirs.
    """
    return pickle.dumps(compose_config(list(overrides)))


def seeds_of(artefact: Artefact, grid: Grid, options: dict[str, str]) -> list[int]:
    """Return the seeds asked for, else the grid's own, else the artefact's."""
    if "seeds" not in options:
        return grid.seed or artefact.scales[options["scale"]].seeds
    try:
        seeds = [int(s) for s in options["seeds"].split(",")]
    except ValueError:
        raise UserError(f"seeds={options['seeds']!r} must be whole numbers such as 1,2,3") from None
    if artefact.layout not in UNTUNED and max(seeds) >= FIRST_FRESH_SEED:
        raise UserError(
            f"seeds={options['seeds']} must be below {FIRST_FRESH_SEED}: finalists= trains the seeds from it on"
        )
    return seeds


def ended(cfg: DictConfig, run_id: str | None = None) -> Run | None:
    """Return a configuration's run if it has ended and its files are intact."""
    return ended_run(records.run_folder(cfg, run_id))


@dataclass
class Plan:
    """An artefact with its configurations, the runs that have ended, and those that are left to do."""

    artefact: Artefact
    configs: list[DictConfig]
    runs: list[Run]
    todo: list[DictConfig]


def plan(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> Plan:
    """Read what has ended, and return the plan."""
    configs = expand(artefact, options, overrides)
    runs = [run for run_id, cfg in configs.items() if (run := ended(cfg, run_id)) is not None]
    done = {run.run_id for run in runs}
    return Plan(artefact, list(configs.values()), runs, [cfg for run_id, cfg in configs.items() if run_id not in done])
