"""Measure what a sweep costs beside its training:  python scripts/bench/sweeps.py

1. The wall time of reproduce.py when it plans and skips `finished` runs, and of its --dry-run and
   status.py, as medians over `rounds`. The runs are copies of a real one, each with its own record.
2. The wall time of report.py for the records of every artefact's mini runs, and the size of its
   page. The scores are made up.
3. The time that launcher=local takes per run beside the training. In a sweep of `runs` tiny runs
   with jobs=1, this is the time from one record to the next, minus the later run's training. It
   covers handing the run over, its model and data, its checkpoint and its record.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from omegaconf import DictConfig, OmegaConf

from scripts.bench.made_records import metrics_of, write_run
from scripts.cli.common import one_line_errors
from scripts.cli.parser import ROOT, Command, Key, whole
from scripts.cli.tables import size
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.plan import expand
from tasks.engine import records
from tasks.engine.errors import UserError

COMMAND = Command(
    "scripts/bench/sweeps.py",
    __doc__,
    keys=(
        Key("finished", "runs of the finished sweep", 1000, type=whole(1)),
        Key("runs", "tiny runs that are trained", 60, type=whole(1)),
        Key("rounds", "measured rounds", 3, type=whole(1)),
    ),
)
TINY = {"num_steps": "16", "task.model.width": "32", "task.batch_size": "64", "task.log_every_steps": "8"}
METHODS = 2  # runs per seed of the grokking artefact
LOGGED = range(20, 1001, 20)  # steps at which a made-up run has evaluations and R, κ and λ


def seconds_of(script: str, *arguments: str) -> float:
    """Return the wall time of a command, in seconds."""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / script), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script} ended with {done.returncode}: {done.stderr}")
    return time.monotonic() - begin


def sweep(runs: int, runs_dir: Path) -> list[str]:
    """Return reproduce.py's arguments for a sweep of about `runs` tiny runs."""
    seeds = ",".join(str(seed) for seed in range(1, -(-runs // METHODS) + 1))
    return ["grokking", f"seeds={seeds}", f"runs_dir={runs_dir}", *(f"{key}={value}" for key, value in TINY.items())]


def make_finished(runs: int, runs_dir: Path) -> int:
    """Copy one real tiny run as if a sweep had finished, and return the number of copies."""
    seconds_of(
        "train.py",
        "task=grokking",
        "quiet=true",
        f"runs_dir={runs_dir / 'one'}",
        *(f"{key}={value}" for key, value in TINY.items()),
    )
    (one,) = (runs_dir / "one").glob("*/*-s1-*")
    options = dict(argument.split("=", 1) for argument in sweep(runs, runs_dir)[1:])
    configs = expand(load_artefact("grokking"), {"scale": "mini", "seeds": options.pop("seeds")}, options)
    record = json.loads((one / "record.json").read_text())
    del record["checksum"]
    for run_id, cfg in configs.items():
        folder = records.run_folder(cfg, run_id)
        shutil.copytree(one, folder, ignore=shutil.ignore_patterns("record.json", ".lock"))
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
        own = {
            "run_id": run_id,
            "seed": cfg.seed,
            "config": records.identity(cfg),
            "config_hash": records.config_hash(cfg),
        }
        records.write_record(folder, record | own)
    shutil.rmtree(runs_dir / "one")
    return len(configs)


def skipping(runs: int, rounds: int, runs_dir: Path) -> None:
    """Print how long the commands take over a finished sweep."""
    count = make_finished(runs, runs_dir)
    arguments = sweep(runs, runs_dir)
    for script, *more in (("reproduce.py",), ("reproduce.py", "--dry-run"), ("status.py",)):
        times = [seconds_of(script, *arguments, *more) for _ in range(rounds)]
        print(
            f"{' '.join([script, *more])}: {median(times):.1f} s for {count} finished runs, {min(times):.1f} to {max(times):.1f} s",
            flush=True,
        )


def reporting(rounds: int, folder: Path) -> None:
    """Print how long the report takes when every run of every artefact is on record."""
    runs_dir = folder / "runs"
    wanted: dict[str, tuple[DictConfig, set[str]]] = {}
    for artefact in map(load_artefact, known_artefacts()):
        if "mini" not in artefact.scales:
            continue
        for run_id, cfg in expand(artefact, {"scale": "mini"}, {"runs_dir": str(runs_dir)}).items():
            wanted.setdefault(run_id, (cfg, set()))[1].update(metrics_of(artefact.name))  # artefacts share runs
    for cfg, metrics in wanted.values():
        write_run(runs_dir, cfg, metrics, steps=LOGGED)
    times = [
        seconds_of("report.py", f"runs_dir={runs_dir}", f"results_dir={folder / 'results'}") for _ in range(rounds)
    ]
    page = size((folder / "results/index.html").stat().st_size)
    print(
        f"report.py: {median(times):.1f} s for {len(wanted)} runs, {min(times):.1f} to {max(times):.1f} s; a page of {page}",
        flush=True,
    )


def overhead(runs: int, runs_dir: Path) -> None:
    """Print what launcher=local adds to the training of a run."""
    seconds_of("reproduce.py", *sweep(runs, runs_dir), "jobs=1")
    ended = sorted(
        (path.stat().st_mtime, json.loads(path.read_text())["seconds"]) for path in runs_dir.glob("*/*/record.json")
    )
    beside = [end - before - trained for (before, _), (end, trained) in itertools.pairwise(ended)]
    low, *_, high = quantiles(beside, n=10)
    share = f"{median(beside) / 60:.2%} of a minute"
    print(
        f"launcher=local: {median(beside):.2f} s a run beside its training, {low:.2f} to {high:.2f} s for 8 of 10; {share}"
    )


def main(arguments: list[str]) -> None:
    """Measure all three in a temporary folder."""
    options = COMMAND.parse(arguments).options
    finished, runs, rounds = (options[key] for key in ("finished", "runs", "rounds"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        skipping(finished, rounds, Path(folder) / "finished")
        reporting(rounds, Path(folder) / "report")
        overhead(runs, Path(folder) / "tiny")
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
