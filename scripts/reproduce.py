"""Artefacts of the paper:  python scripts/reproduce.py figure2 [scale=mini] [seeds=1,2] [jobs=2] [device=cpu] [key=value ...]

Expands the artefact's grids, skips what has ended, runs the rest in parallel processes and writes results/<scale>/<artefact>/. Any other
key=value is a key of train.py, applied to every run: `num_steps=100` for a quick look, `lr=1e-2` for one row. What the artefact's own
definition does not ask for goes to <runs_dir>/results/ instead, unless `results_dir=` says where.
"""

import itertools
import os
import sys
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
# Keys of train.py that change no result, so that the table is still the artefact's own.
WHERE = ("device", "runs_dir", "data_dir")


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
    own = "seeds" not in options and set(overrides) <= set(WHERE)
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


def reproduce(artefact: dict[str, Any], configs: list[DictConfig], options: dict[str, str], out: Path, command: str) -> None:
    """One artefact, from runs to results in the folder `out`; `command` is what the table says of how it was made."""
    name = artefact["name"]
    runs = [run for cfg in configs if (run := ended(cfg)) is not None]
    done = {run.record["run_id"] for run in runs}
    todo = [cfg for cfg in configs if records.run_id(cfg) not in done]
    print(f"{name}: {len(configs)} runs, {len(runs)} done, {len(todo)} to do", flush=True)
    if todo:
        prepare_task(artefact["task"], [todo[0].task.data.get("name")], Path(todo[0].data_dir))
        run_all(todo, int(options.get("jobs", os.cpu_count() or 1)), name)
        runs += [run for cfg in todo if (run := ended(cfg)) is not None]
    seeds = len({cfg.seed for cfg in configs})
    print(write_artefact(artefact, options["scale"], runs, out, expected=len(configs), seeds=seeds, command=command).text)


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
    if not options.get("jobs", "1").isdigit() or int(options.get("jobs", "1")) < 1:
        raise UserError(f"jobs={options['jobs']} must be a whole number >= 1")
    # All of them first: an error in the last artefact is said before the first one runs.
    plans = [(artefact, expand(artefact, options, overrides)) for artefact in map(load_artefact, names)]
    for artefact, configs in plans:
        name = artefact["name"]
        out = results_folder(name, options, overrides, Path(configs[0].runs_dir))
        narrowed = [f"{key}={value}" for key, value in given.items() if key not in (*WHERE, "jobs", "results_dir")]
        reproduce(artefact, configs, options, out, " ".join(["python scripts/reproduce.py", name, *narrowed]))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
