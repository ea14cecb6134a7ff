"""Check that runs do what Algorithm 1 says:  python scripts/mechanism.py gpt2 scale=mini

Trains the first steps of AdamCPR's runs and repeats every step with the plain reference of Algorithm 1,
with the same gradients (tasks/engine/replay.py). Kappa-IP and Kappa-WS are replayed for every task, and
Kappa-kI0 and Kappa-K where its artefacts use them, with the lowest of their bounds. All other keys are the
task's own.

Writes results/<scale>/mechanism.csv and mechanism.md. Rows of tasks that are not named stay. Without
names, a task whose data or packages are missing is left out, with a message.
"""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import CONFIG_DIR, RESULTS_DIR, ROOT, SCALE, Command, Key, Names, nearest, whole
from scripts.prepare_data import prepare_task
from scripts.sweep.artefacts import known_artefacts, load_artefact
from tasks.engine.config import read_config
from tasks.engine.errors import TrainingFailed, UserError
from tasks.engine.terminal import say

if TYPE_CHECKING:
    from tasks.engine.replay import Replayed

STEPS = 300
COMMAND = Command(
    "scripts/mechanism.py",
    __doc__,
    Names("TASK", "tasks of configs/task/ (default: all that an artefact trains at the scale)", example="gpt2"),
    (
        SCALE,
        Key(
            "num_steps",
            "how many steps of each run to replay",
            without=f"{STEPS}, and as many after the first step at which a bound can be set, if that is later",
            type=whole(1),
        ),
        Key("device", "cpu, cuda or cuda:1", without="the scale's"),
        Key("data_dir", "the folder of the data sets", "data"),
        RESULTS_DIR,
    ),
)


def main(arguments: list[str]) -> None:
    """Replay the tasks, and write the tables after each of them.

    Raises:
        UserError: a task that was named can't be replayed, or none can.
        TrainingFailed: a run differs from the reference.
    """
    request = COMMAND.parse(arguments)
    options, different, text = request.options, [], ""
    scale, folder = options["scale"], Path(options.get("results_dir", ROOT / "results")) / options["scale"]
    known = sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml"))
    if unknown := [task for task in request.names if task not in known]:
        raise UserError(f"task {unknown[0]!r} is unknown{nearest(unknown[0], known)}")
    from results.mechanism import write_mechanism

    used = lowest_bounds(scale)
    for task in request.names or used:
        try:
            rows = replayed(task, used.get(task, {}), options)
        except UserError as error:
            if request.names:
                raise
            say(f"{task} is left out: {error}")
            continue
        different += [f"{task} with {row['regularizer']}" for row in rows if row["outcome"] == "differs"]
        text = write_mechanism(rows, folder, f"python scripts/mechanism.py scale={scale}")
    if not text:
        raise UserError("no task could be replayed")
    print(text)
    if different:
        raise TrainingFailed(f"{', '.join(different)}: the run differs from Algorithm 1")


def lowest_bounds(scale: str) -> dict[str, dict[str, float]]:
    """Return the lowest k of Kappa-kI0 and κ of Kappa-K that artefacts use at a scale.

    It is by task and regularizer, for every task that an artefact trains.
    """
    found: dict[str, dict[str, float]] = {}
    for artefact in map(load_artefact, known_artefacts()):
        for grid in artefact.scales[scale].grids if scale in artefact.scales else ():
            used = found.setdefault(str(grid.task or artefact.task), {})
            values = grid.axes.get("regularizer.kappa_init_param")
            if grid.regularizer in ("adamcpr_ki0", "adamcpr_k") and values is not None:
                lowest = min(values) if isinstance(values, list) else values
                used[grid.regularizer] = min(lowest, used.get(grid.regularizer, lowest))
    return dict(sorted(found.items()))


def replayed(task: str, bounds: dict[str, float], options: dict[str, Any]) -> list[dict[str, str]]:
    """Replay a run for each of a task's κ initializations, and return a row for each."""
    from tasks.engine.optimizers import first_bound
    from tasks.engine.replay import replay

    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for regularizer in ("adamcpr_ip", "adamcpr_ws", *bounds):
            cfg = configured(task, regularizer, bounds.get(regularizer), folder, options)
            if not rows:
                prepare_task(task, [name] if (name := cfg.task.data.get("name")) else [], Path(cfg.data_dir))
            first = first_bound(read_config(cfg)) or 0
            found = replay(cfg, options.get("num_steps", STEPS if first < STEPS else first + STEPS))
            rows.append(as_row(task, cfg, found))
            say(f"{task} {regularizer}: {found.outcome}")
    return rows


def configured(task: str, regularizer: str, bound: float | None, folder: str, options: dict[str, Any]) -> DictConfig:
    """Return a run's configuration, without checkpoints and evaluations.

    A task without an lr warm-up has no Kappa-WS of its own. It starts after a sixth of the steps.
    """
    keys = [f"task={task}", f"scale={options['scale']}", f"regularizer={regularizer}", f"runs_dir={folder}"]
    keys += [f"{name}={options[name]}" for name in ("data_dir", "device") if name in options]
    keys += ["quiet=true", "checkpoint_every_minutes=null", "task.eval_every_steps=null"]
    keys += [f"regularizer.kappa_init_param={bound}"] if bound is not None else []
    cfg = compose_config(keys)
    if regularizer == "adamcpr_ws" and not cfg.task.schedule.warmup_steps:
        cfg.regularizer.warm_start = options.get("num_steps", STEPS) // 6
    return cfg


def as_row(task: str, cfg: DictConfig, found: "Replayed") -> dict[str, str]:
    """Return a row of mechanism.csv (results.mechanism.COLUMNS)."""
    from results.artefact import machine

    hardware, versions = found.state["hardware"], found.state["versions"]
    return {
        "task": task,
        "regularizer": cfg.regularizer.name,
        "kappa_init": cfg.regularizer.kappa_init_method,
        "kappa_init_param": f"{found.kappa_init_param:g}",
        "lr": f"{cfg.lr:g}",
        "steps": str(found.steps),
        "matrices": str(found.matrices),
        "bounds": str(found.bounds),
        "theta": f"{found.theta:.1e}",
        "lambda": f"{found.lam:.1e}",
        "kappa": f"{found.kappa:.1e}",
        "same_steps": "yes" if found.same_steps else "no",
        "ties": str(found.ties),
        "outcome": found.outcome,
        "largest_ratio": "-" if found.most is None else f"{found.most:.3f}",
        "above": f"{found.above:.3f}",
        "active": f"{found.active:.3f}",
        "kernel": str(found.state["kernel"]),
        "hardware": machine(hardware),
        "versions": f"Python {versions['python']}, torch {versions['torch']}",
        "code": str(found.state["git_commit"]),
    }


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
