"""Expand an artefact's grids and find the runs that are left to do."""

import functools
import itertools
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.artefact_file import SchemaError, nearest, read_artefact
from results.cells import published_best
from results.runs import Run, label, power_of_ten
from results.schema import FIRST_FRESH_SEED, UNTUNED, Artefact, Grid, Panel, at_scale
from scripts.cli.common import compose_config
from scripts.cli.parser import CONFIG_DIR, Request
from scripts.sweep.artefact_keys import check_cells, check_filled, check_grid
from scripts.sweep.committed_runs import committed_runs
from scripts.sweep.labels import axes_of, note_in_wandb
from scripts.sweep.rehearsed import one_of_each, with_rehearsal
from scripts.sweep.run_folders import ended_run
from tasks.engine import records
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.fake import SCALE as REHEARSAL
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
        raise UserError(f"{artefact.file}: scale {unknown[0]} is unknown{nearest(unknown[0], scales)}")
    return artefact


def asked_for(request: Request) -> list[tuple[Artefact, Request]]:
    """Return the named artefacts, each with its request. Without names, return all that have the scale."""
    found = map(load_artefact, dict.fromkeys(request.names) or known_artefacts())
    every = map(with_rehearsal, found) if request.options["scale"] == REHEARSAL else found
    if request.names:
        return [(artefact, at_own_scale(artefact, request)) for artefact in every]
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


def expand_grids(artefact: Artefact, options: dict[str, Any], overrides: dict[str, str]) -> dict[str, DictConfig]:
    """Return run id -> configuration: the union of an artefact's grids, for every seed.
    An override of an axis narrows it to one value.

    Raises:
        UserError: a value is out of its range, or the artefact's panels don't fit its grids.
    """
    scale = options["scale"]
    grids = grids_of(artefact, options, overrides)
    configs = {run_id: cfg for grid in grids for run_id, cfg in grid.items()}
    check_cells(artefact, scale, configs)
    if not {key.partition(".")[0] for key in overrides} <= set(records.NOT_IDENTITY):
        grids = grids_of(artefact, {"scale": scale, "seeds": "1"}, {})  # an override may empty a panel
    check_filled(artefact, scale, grids)
    return configs


def grids_of(artefact: Artefact, options: dict[str, str], overrides: dict[str, str]) -> list[dict[str, DictConfig]]:
    """Return run id -> configuration for each of the artefact's grids, as `expand` does for their union."""
    scale, scales = options["scale"], artefact.scales
    if scale not in scales:
        raise UserError(f"scale={scale!r} is unknown to {artefact.name}; choose one of {', '.join(scales)}")
    _check_overrides(artefact, scale, overrides)
    return [_configs(artefact, number, options, overrides) for number in range(len(scales[scale].grids))]


def _configs(
    artefact: Artefact, number: int, options: dict[str, str], overrides: dict[str, str]
) -> dict[str, DictConfig]:
    """Return run id -> configuration for a grid, counted from 0."""
    scale = options["scale"]
    grid = artefact.scales[scale].grids[number]
    base = _base(artefact, grid, scale, overrides)
    check_grid(artefact.file, grid, base)
    narrowed = {"task", "regularizer", "scale", "quiet", *(key.lstrip("+") for key in overrides)}
    axes = {"seed": seeds_of(artefact, grid, options)} | {
        key: value if isinstance(value, list) else [value] for key, value in grid.axes.items() if key not in narrowed
    }
    grids = artefact.scales[scale].grids
    named, several = [*axes_of(grids, overrides), *overrides], len({one.task for one in grids}) > 1
    configs = {}
    for values in itertools.product(*axes.values()):
        cfg = pickle.loads(base)  # six times as fast as DictConfig.copy()
        for key, value in zip(axes, values, strict=True):
            OmegaConf.update(cfg, key, value, merge=True)
        if cfg.seed == min(axes["seed"]):  # the other seeds of the cell differ in nothing else
            try:
                read_config(cfg)
            except UserError as error:
                if str(error).split("=")[0].split()[0] not in axes:
                    raise
                where = f"{artefact.file}: scales.{scale}.grids.{number} ({grid.regularizer})"
                raise UserError(f"{where}: {error}") from None
        note_in_wandb(cfg, artefact.name, named, grid.task if several else None)
        configs[records.run_id(cfg)] = cfg
    return configs


def tuning_seeds(configs: Iterable[DictConfig]) -> int:
    """Return the number of seeds that choose settings: those of the grids, without the finalists'."""
    seeds = {cfg.seed for cfg in configs}
    return len({seed for seed in seeds if seed < FIRST_FRESH_SEED} or seeds)


def configuration(artefact: Artefact, scale: str, task: str, regularizer: str) -> DictConfig:
    """Return the configuration of a task and a regularizer, before any setting of a grid."""
    cfg: DictConfig = pickle.loads(_base(artefact, Grid(task=task, regularizer=regularizer, seed=None), scale, {}))
    return cfg


def _base(artefact: Artefact, grid: Grid, scale: str, overrides: dict[str, str]) -> bytes:
    """Return a grid's configuration without its axes, pickled."""
    fixed = {"task": grid.task or artefact.task, "regularizer": grid.regularizer, "scale": scale, "quiet": "true"}
    own = artefact.scales[scale].resources.model_dump(exclude_none=True)
    fixed |= {f"resources.{key}": str(value) for key, value in own.items()}
    return _composed(tuple(f"{key}={value}" for key, value in (fixed | overrides).items()))


def _check_overrides(artefact: Artefact, scale: str, overrides: dict[str, str]) -> None:
    """Raise UserError for a key that some of the artefact's regularizers or tasks have, and others lack."""
    for given, value in overrides.items():
        key = given.lstrip("+")
        group = key.partition(".")[0]
        if group == key or group not in ("task", "regularizer"):
            continue
        known: dict[bool, dict[str, str]] = {True: {}, False: {}}
        for grid in artefact.scales[scale].grids:
            task = grid.task or str(artefact.task)
            cfg = pickle.loads(_base(artefact, grid, scale, {}))
            known[OmegaConf.select(cfg, key, default=_MISSING) is not _MISSING][getattr(grid, group) or task] = task
        if known[True] and known[False]:
            choices = {"task": ",".join(dict.fromkeys(known[True].values()))} | {group: ",".join(known[True])}
            command = " ".join(f"{name}={choice}" for name, choice in choices.items())
            have, lack = (", ".join(names) for names in (known[True], known[False]))
            raise UserError(
                f"{key} is a key of {have}, but {artefact.name} trains {lack} too; "
                f"to train only those that have it: python scripts/train.py -m {command} scale={scale} {key}={value}"
            )


_MISSING = object()


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
