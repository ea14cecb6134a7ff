"""Artefacts of the paper:  python scripts/reproduce.py figure2 [scale=mini] [seeds=1,2] [jobs=2] [device=cpu] [key=value ...]

Expands the artefact's grids, skips what has ended, runs the rest in parallel processes and writes results/<scale>/<artefact>/. Any other
key=value is a key of train.py, applied to every run: `num_steps=100` for a quick look, `lr=1e-2` for one row. What the artefact's own
definition does not ask for goes to <runs_dir>/results/ instead, unless `results_dir=` says where.
"""

import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import Run, write_artefact
from scripts.common import CONFIG_DIR, ROOT, compose_config, one_line_errors
from scripts.pool import run_all, say
from scripts.prepare_data import prepare_task
from tasks.engine import records
from tasks.engine.errors import UserError

OPTIONS = ("scale", "seeds", "jobs", "results_dir")


def load_artefact(name: str) -> dict[str, Any]:
    """configs/artefact/<name>.yaml; raises UserError if there is none."""
    path = CONFIG_DIR / "artefact" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserError(f"artefact {name!r} is unknown; choose one of {known}")
    return OmegaConf.to_container(OmegaConf.load(path), resolve=True) | {"name": name}  # type: ignore[operator, return-value]


def expand(artefact: dict[str, Any], options: dict[str, str], overrides: dict[str, str]) -> list[DictConfig]:
    """The configurations of an artefact: the union of its grids, for every seed; an override of an axis narrows it to one value."""
    scale, scales = options["scale"], artefact["scales"]
    if scale not in scales:
        raise UserError(f"scale={scale!r} is unknown to {artefact['name']}; choose one of {', '.join(scales)}")
    configs = {}
    for grid in scales[scale]["grids"]:
        fixed = {"task": artefact["task"], "regularizer": grid["regularizer"], "scale": scale, "quiet": "true"} | overrides
        base = compose_config([f"{key}={value}" for key, value in fixed.items()])
        axes = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
        axes = {key: values for key, values in axes.items() if key not in fixed}
        for values in itertools.product(seeds_of(artefact, options), *axes.values()):
            cfg = base.copy()
            for key, value in zip(("seed", *axes), values, strict=True):
                OmegaConf.update(cfg, key, value, merge=True)
            configs[records.run_id(cfg)] = cfg
    return list(configs.values())


def seeds_of(artefact: dict[str, Any], options: dict[str, str]) -> list[int]:
    """The seeds asked for, or the artefact's own."""
    try:
        return [int(s) for s in options["seeds"].split(",")] if "seeds" in options else artefact["scales"][options["scale"]]["seeds"]
    except ValueError:
        raise UserError(f"seeds={options['seeds']!r} must be whole numbers such as 1,2,3") from None


def results_folder(name: str, options: dict[str, str], overrides: dict[str, str], runs_dir: Path) -> Path:
    """Where the results go: what differs from the artefact's definition must not replace a table that is named after it."""
    own = "seeds" not in options and set(overrides) <= set(records.NOT_IDENTITY)
    root = Path(options.get("results_dir", ROOT / "results" if own else runs_dir / "results"))
    return root / options["scale"] / name


def ended(cfg: DictConfig) -> Run | None:
    """The run if it has ended and its files are whole; a damaged one is said, and is not in any table."""
    folder = records.run_folder(cfg)
    record = records.ended(folder, say)
    if record is None:
        return None
    try:
        return Run(record["config"], record, records.read_metrics(folder, record))
    except records.DamagedRecord as damage:
        records.give_up(folder, damage, say)
        return None


@dataclass
class Plan:
    """An artefact with its configurations, the runs of them that have ended, and what is left to do."""

    artefact: dict[str, Any]
    configs: list[DictConfig]
    runs: list[Run]
    todo: list[DictConfig]


def plan(artefact: dict[str, Any], options: dict[str, str], overrides: dict[str, str]) -> Plan:
    """Reads what has ended."""
    configs = expand(artefact, options, overrides)
    runs = [run for cfg in configs if (run := ended(cfg)) is not None]
    done = {run.record["run_id"] for run in runs}
    return Plan(artefact, configs, runs, [cfg for cfg in configs if records.run_id(cfg) not in done])


def prepare(plans: list[Plan]) -> None:
    """Finds the devices and brings the data of all artefacts, before the first one runs for hours.

    Raises UserError if one of them is not to be had.
    """
    if not any(p.todo for p in plans):
        return
    from tasks.engine.device import pick_device

    for device in {p.todo[0].device for p in plans if p.todo}:
        pick_device(device)
    for p in plans:
        if p.todo:
            prepare_task(p.artefact["task"], [p.todo[0].task.data.get("name")], Path(p.todo[0].data_dir))


def jobs_of(options: dict[str, str], device: str) -> int:
    """How many runs at a time: as asked; else one on a GPU, and on the CPU one a core that this process may use.

    Raises UserError for a number that is none.
    """
    if "jobs" not in options:
        return 1 if device.startswith("cuda") else len(os.sched_getaffinity(0))
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise UserError(f"jobs={options['jobs']} must be a whole number >= 1")
    return int(options["jobs"])


def reproduce(p: Plan, options: dict[str, str], out: Path, command: str) -> None:
    """One artefact, from runs to results in the folder `out`; `command` is what the table says of how it was made."""
    name = p.artefact["name"]
    print(f"{name}: {len(p.configs)} runs, {len(p.runs)} done, {len(p.todo)} to do", flush=True)
    runs = list(p.runs)
    if p.todo:
        run_all(p.todo, jobs_of(options, p.todo[0].device), name)
        runs += [run for cfg in p.todo if (run := ended(cfg)) is not None]
    seeds = len({cfg.seed for cfg in p.configs})
    print(write_artefact(p.artefact, options["scale"], runs, out, expected=len(p.configs), seeds=seeds, command=command).text)


def main(arguments: list[str]) -> None:
    """Parses ARTEFACT... key=value... and reproduces each artefact in turn."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument]
    if not names:
        raise UserError("name an artefact, for example: python scripts/reproduce.py figure2")
    options = {"scale": "mini"} | {key: value for key, value in given.items() if key in OPTIONS}
    overrides = {key: value for key, value in given.items() if key not in OPTIONS}
    if fixed := {"task", "regularizer", "seed"} & set(overrides):
        raise UserError(f"{', '.join(sorted(fixed))}= is the artefact's to choose; seeds=1,2 chooses seeds")
    jobs_of(options, "cpu")
    plans = [plan(artefact, options, overrides) for artefact in map(load_artefact, names)]
    prepare(plans)
    for p in plans:
        name = p.artefact["name"]
        out = results_folder(name, options, overrides, Path(p.configs[0].runs_dir))
        narrowed = [f"{key}={value}" for key, value in given.items() if key not in (*records.NOT_IDENTITY, "jobs", "results_dir")]
        reproduce(p, options, out, " ".join(["python scripts/reproduce.py", name, *narrowed]))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
