"""Artefacts of the paper:  python scripts/reproduce.py figure2 [scale=mini] [seeds=1,2] [jobs=2] [device=cpu] [runs_dir=runs]

Expands the artefact's grids, skips what has ended, runs the rest in parallel processes and writes results/<scale>/<artefact>/.
"""

import itertools
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import Run, write_artefact
from scripts.common import CONFIG_DIR, ROOT, compose_config, one_line_errors
from tasks.engine import records
from tasks.engine.errors import TrainingFailed, UserError

OPTIONS = ("scale", "seeds", "jobs", "device", "runs_dir", "data_dir")


def load_artefact(name: str) -> dict[str, Any]:
    """configs/artefact/<name>.yaml; raises UserError if there is none."""
    path = CONFIG_DIR / "artefact" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserError(f"artefact {name!r} is unknown; choose one of {known}")
    return OmegaConf.to_container(OmegaConf.load(path), resolve=True) | {"name": name}  # type: ignore[operator, return-value]


def expand(artefact: dict[str, Any], options: dict[str, str]) -> list[DictConfig]:
    """The configurations of an artefact: the union of its grids, for every seed."""
    scale = options["scale"]
    if scale not in artefact["scales"]:
        raise UserError(f"scale={scale!r} is unknown; choose one of {', '.join(artefact['scales'])}")
    plan, configs = artefact["scales"][scale], {}
    try:
        seeds = [int(s) for s in options["seeds"].split(",")] if "seeds" in options else plan["seeds"]
    except ValueError:
        raise UserError(f"seeds={options['seeds']!r} must be whole numbers such as 1,2,3") from None
    passed = [f"{key}={options[key]}" for key in ("device", "runs_dir", "data_dir") if key in options]
    for grid in plan["grids"]:
        fixed = [f"task={artefact['task']}", f"regularizer={grid['regularizer']}", f"scale={scale}", "quiet=true", *passed]
        base = compose_config(fixed)
        axes = {key: value if isinstance(value, list) else [value] for key, value in grid.items() if key != "regularizer"}
        for values in itertools.product(seeds, *axes.values()):
            cfg = base.copy()
            for key, value in zip(("seed", *axes), values, strict=True):
                OmegaConf.update(cfg, key, value, merge=True)
            configs[records.run_id(cfg)] = cfg
    return list(configs.values())


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


def say(message: str) -> None:
    """One line to the standard error stream, without tearing the bar; the engine's own needs torch."""
    tqdm.write(message, file=sys.stderr)


def work(cfg: DictConfig) -> str | None:
    """In a worker process: one run; a diverged run is on record and no reason to stop."""
    from tasks.engine.run import run

    try:
        run(cfg)
    except TrainingFailed as failure:
        return str(failure)
    return None


def run_all(configs: list[DictConfig], jobs: int, title: str) -> None:
    """Runs in parallel processes, one thread each, with a bar and the time left."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(configs)), mp_context=context) as pool, tqdm(total=len(configs), unit="run", desc=title) as bar:
        futures = [pool.submit(work, cfg) for cfg in configs]
        try:
            for future in as_completed(futures):
                if message := future.result():
                    say(message)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def reproduce(name: str, options: dict[str, str]) -> None:
    """One artefact, from runs to results."""
    artefact = load_artefact(name)
    configs = expand(artefact, options)
    runs = [run for cfg in configs if (run := ended(cfg)) is not None]
    done = {run.record["run_id"] for run in runs}
    todo = [cfg for cfg in configs if records.run_id(cfg) not in done]
    print(f"{name}: {len(configs)} runs, {len(runs)} done, {len(todo)} to do", flush=True)
    if todo:
        if artefact["task"] == "cifar100":
            from tasks.cifar100.prepare import prepare

            prepare(todo[0].task.data.name, Path(todo[0].data_dir), print)
        run_all(todo, int(options.get("jobs", os.cpu_count() or 1)), name)
        runs += [run for cfg in todo if (run := ended(cfg)) is not None]
    command = f"make reproduce-{name}" + ("" if options["scale"] == "mini" else f" SCALE={options['scale']}")
    seeds = len({cfg.seed for cfg in configs})
    out = ROOT / "results" / options["scale"] / name
    print(write_artefact(artefact, options["scale"], runs, out, expected=len(configs), seeds=seeds, command=command).text)


def main(arguments: list[str]) -> None:
    """Parses ARTEFACT... key=value... and reproduces each artefact in turn."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument]
    if unknown := set(options) - set(OPTIONS):
        raise UserError(f"unknown option {', '.join(sorted(unknown))}; the options are {', '.join(OPTIONS)}")
    if not names:
        raise UserError("name an artefact, for example: python scripts/reproduce.py figure2")
    if not options.get("jobs", "1").isdigit() or int(options.get("jobs", "1")) < 1:
        raise UserError(f"jobs={options['jobs']} must be a whole number >= 1")
    options.setdefault("scale", "mini")
    for name in names:
        load_artefact(name)
    for name in names:
        reproduce(name, options)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
