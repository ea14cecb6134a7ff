"""Estimate what runs have cost and what the remaining ones will cost, in seconds of one core or GPU.
Seconds per step come from the records of finished runs in the same runs_dir. The first of these
groups that has a run decides: the same task settings and method, the same task settings, the same
task and scale. A run in progress is judged by its own log.

If no run has finished, the logs of the runs in progress are used. Next is the task's `resources`
(scripts/sweep/cards.py) at paper scale, and `minutes_per_run` in the artefact's file at the others, if
the settings are the artefact's. Runs with less than a quarter of the steps come last, because their
start-up and evaluations weigh more.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from omegaconf import DictConfig

from results.schema import Artefact, at_scale
from scripts.cli.parser import Request
from scripts.cli.tables import duration, hours
from scripts.sweep.cards import DEFAULT, unit_price
from scripts.sweep.local import jobs_of
from scripts.sweep.plan import fresh_seeds
from scripts.sweep.states import RunState, whole_record
from tasks.engine import attempts, records

# Overrides that do not change how long a run takes, so the artefact file's estimate still holds.
ESTIMATE_HOLDS = ("num_steps", "lr", *sorted(set(records.NOT_IDENTITY) - {"device", "threads", "compile"}))
ENOUGH = 0.25  # a measured run tells the price of another if it has this share of its steps


class Pace(NamedTuple):
    """The measured speed of a run: seconds per step over a number of steps."""

    steps: int
    seconds: float


Paces = dict[tuple, dict[tuple, list[Pace]]]


@dataclass(frozen=True)
class Cost:
    """Seconds of one core or GPU, or None if unknown.
    source: "measured", "unknown", or where the price is from.
    """

    seconds: float | None
    source: str


class Prices:
    """Look up the cost of a step in the records of a runs_dir."""

    def __init__(self, artefact: Artefact, request: Request, runs: Sequence[RunState]) -> None:
        keys = {key.partition(".")[0] for key in request.overrides if not key.startswith("regularizer.")}
        estimate_holds = keys <= {*ESTIMATE_HOLDS}
        scale = artefact.scales.get(request.options["scale"])
        self._price_holds = keys <= {*ESTIMATE_HOLDS, "device", "threads"}  # on a GPU, whichever
        self._minutes_per_run = scale.minutes_per_run if scale and estimate_holds else None
        # group of similar runs -> its settings -> the paces of their runs
        self._finished: Paces = defaultdict(lambda: defaultdict(list))
        self._running: Paces = defaultdict(lambda: defaultdict(list))
        self._read: set[Path] = set()
        for run in runs:
            if run.state == "running" and (pace := own_pace(run)) is not None:
                _add(self._running, records.identity(run.cfg), on_gpu(run.cfg), processes(run.cfg), pace)

    def left(self, run: RunState) -> Cost:
        """Return the remaining cost of a run that has not ended."""
        steps = run.cfg.num_steps - run.step
        own = own_pace(run) if run.state == "running" else None
        known = own is not None and own.steps >= ENOUGH * run.cfg.num_steps
        price = Cost(own.seconds, "measured") if own and known else self._price(run.cfg)
        return self._times(price, run.cfg, steps)

    def whole(self, cfg: DictConfig) -> Cost:
        """Return the cost of a run from its first step to its last."""
        return self._times(self._price(cfg), cfg, cfg.num_steps)

    def used(self, run: RunState) -> Cost:
        """Return what a run has cost: the recorded cost if it has ended, else its steps times the cost of one."""
        if run.record is not None:
            hardware = run.record["hardware"]
            return Cost(
                run.record["seconds"] * hardware.get("processes", 1) * (1 if hardware["gpu"] else hardware["threads"]),
                "measured",
            )
        if run.step == 0:
            return Cost(0.0, "measured")
        return self._times(self._price(run.cfg), run.cfg, run.step)

    def _times(self, price: Cost, cfg: DictConfig, steps: int) -> Cost:
        """Return the cost of some steps at the price of one."""
        return price if price.seconds is None else Cost(price.seconds * width(cfg) * steps, price.source)

    def _price(self, cfg: DictConfig) -> Cost:
        """Return seconds per step, including evaluations."""
        self._read_records(Path(cfg.runs_dir) / cfg.task.name)
        if (measured := self._measured(cfg, ENOUGH * cfg.num_steps)) is not None:
            return Cost(measured, "measured")
        if self._price_holds and on_gpu(cfg) and (known := unit_price(cfg)) is not None:
            return Cost((known.update + known.beside / cfg.num_steps) / processes(cfg), known.source)
        if self._minutes_per_run is not None:
            return Cost(60 * self._minutes_per_run / cfg.task.num_steps, "estimated")
        of_short_runs = self._measured(cfg, 0)
        return Cost(of_short_runs, "unknown" if of_short_runs is None else "measured")

    def _measured(self, cfg: DictConfig, least_steps: float) -> float | None:
        """Return seconds per step from the runs with that many steps, or None if there are none."""
        groups = list(_alike(records.identity(cfg), on_gpu(cfg), processes(cfg)))
        for paces in (self._finished, self._running):
            for group in groups:
                # A busy machine makes runs slower and never faster. So each setting has the price of its
                # quickest run, which a few starved ones can't raise.
                of_settings = (
                    [pace.seconds for pace in of if pace.steps >= least_steps] for of in paces[group].values()
                )
                if quickest := [min(seconds) for seconds in of_settings if seconds]:
                    return median(quickest)
        return None

    def _read_records(self, folder: Path) -> None:
        if folder in self._read:
            return
        self._read.add(folder)
        for path in folder.glob("*/record.json"):
            record = whole_record(path.parent)
            if record is not None and record["status"] == "finished" and record["steps"]:
                hardware, pace = record["hardware"], Pace(record["steps"], seconds_of(record) / record["steps"])
                _add(self._finished, record["config"], hardware["gpu"] is not None, hardware.get("processes", 1), pace)


def seconds_of(record: Mapping[str, Any]) -> float:
    """Return the time of a run, if possible without waiting for a core.
    With one thread this is its CPU time. With several, CPU time doesn't tell how long they work side by side.
    """
    hardware = record["hardware"]
    alone = hardware["gpu"] is None and hardware["threads"] == 1
    return float(record.get("cpu_seconds", record["seconds"]) if alone else record["seconds"])


def _add(paces: Paces, config: Mapping[str, Any], gpu: bool, count: int, pace: Pace) -> None:
    """Add a run's pace to each of its groups."""
    settings, *wider = _alike(config, gpu, count)
    for group in (settings, *wider):
        paces[group][settings].append(pace)


def _alike(config: Mapping[str, Any], gpu: bool, count: int) -> Iterator[tuple]:
    """Yield keys of runs with about the same cost per step, the closest match first.
    `count` processes share a run.
    """
    task = json.dumps(config["task"], sort_keys=True)
    yield task, config["regularizer"]["name"], gpu, count
    yield task, gpu, count
    yield config["task"]["name"], config["scale"], gpu, count


def own_pace(run: RunState) -> Pace | None:
    """Return the pace of a run in progress, or None if its log does not tell yet.
    Counts the steps since the run was last started or resumed, and uses the modification times of
    its files.
    """
    history = attempts.history(run.folder)
    try:
        seconds = (run.folder / "metrics.jsonl").stat().st_mtime - (run.folder / attempts.NAME).stat().st_mtime
    except FileNotFoundError:
        return None
    if not history or history[-1].step is None:
        return None
    steps = run.step - history[-1].step
    return Pace(steps, seconds / steps) if steps > 0 and seconds > 0 else None


def on_gpu(cfg: DictConfig) -> bool:
    return str(cfg.device).startswith("cuda")


def unit(cfg: DictConfig) -> str:
    """Return what the hours are hours of."""
    return "GPU" if on_gpu(cfg) else "core"


def processes(cfg: DictConfig) -> int:
    """Return the number of processes that share the run, one per GPU."""
    return cfg.nodes * cfg.gpus


def width(cfg: DictConfig) -> int:
    """Return the number of GPUs, or of cores without GPUs, that a run keeps busy."""
    return processes(cfg) * (1 if on_gpu(cfg) else cfg.threads or 1)


def in_hours(costs: Sequence[Cost], unit_name: str) -> str:
    """Return the sum in words, and say what is estimated or unknown."""
    known = [cost for cost in costs if cost.seconds is not None]
    if costs and not known:
        return "unknown"
    words = hours(sum(cost.seconds or 0.0 for cost in known), unit_name)
    if sources := dict.fromkeys(cost.source for cost in known if cost.source != "measured"):
        card = f"of an {DEFAULT}; " if unit_name == "GPU" else ""
        words += f" ({card}{'; '.join(sources)})"
    return words + (f", unknown for {len(costs) - len(known)}" if len(known) < len(costs) else "")


def finalists_to_come(artefact: Artefact, request: Request, runs: Sequence[RunState]) -> str:
    """Return the number and cost of the finalists' runs, which are known once the grids' runs have ended.
    Empty if they are known, or if there are none.
    """
    seeds = fresh_seeds(artefact, request.options)
    if not seeds or any(run.cfg.seed in seeds for run in runs):
        return ""
    from results.evidence.contenders import contenders, most_settings  # slow to import: needs scipy

    if not (settings := most_settings(contenders(at_scale(artefact, request.options["scale"]), []))):
        return ""
    prices = Prices(artefact, request, runs)
    costs = [prices.whole(run.cfg) for run in runs]
    count, price = settings * len(seeds), ""
    if costs and all(cost.seconds is not None for cost in costs):
        price = f", about {hours(count * fmean(cost.seconds or 0.0 for cost in costs), unit(runs[0].cfg))}"
    return (
        f"and up to {count} runs of finalists ({len(seeds)} fresh seeds of about {settings} settings) "
        f"once these have ended{price}"
    )


def time_left(costs: Sequence[Cost], runs: Sequence[RunState], request: Request) -> str:
    """Return how long the remaining runs take side by side, or "" if none remains."""
    if not runs:
        return ""
    if any(cost.seconds is None for cost in costs):
        return "unknown"
    side_by_side = min(at_a_time(runs, request), len(runs))
    seconds = sum(cost.seconds / width(run.cfg) for cost, run in zip(costs, runs, strict=True) if cost.seconds)
    return f"{duration(seconds / side_by_side)}, {side_by_side} at a time"


def at_a_time(runs: Sequence[RunState], request: Request) -> int:
    """Return how many runs train side by side.
    That is the number of running ones, else what the launcher would start. If the GPUs are unknown
    it is 1.
    """
    if running := sum(run.state == "running" for run in runs):
        return running
    cfg = runs[0].cfg
    if cfg.launcher.name == "slurm":
        return cfg.launcher.parallel * cfg.launcher.runs_at_a_time
    return 1 if on_gpu(cfg) and "jobs" not in request.options else jobs_of(request.options, cfg.device)
