"""Show how far a task's matrices grow, and where CPR's bounds lie:  python scripts/regime.py gpt2

Each scale is a row for each learning rate of its artefacts. G = Σ η² / R(0) and ρ = η / √κ come from
the schedule and the model's initialization, before any training (tasks/engine/regime.py). end/2x is
Σ η² of all steps over that of the steps up to 2x the lr warm-up: what counts for LoRA's B, which begins at zero. The
measured columns come from finished runs in runs_dir, as medians over runs:

- R(T)/R(0) of Adam without regularization or with the least weight decay.
- κ/R(0), the largest R/κ, the shares of (matrix, step) pairs with R > 1.05 κ and with λ > 0, and the
  largest λ of AdamCPR.

Changes nothing.
"""

import importlib
import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import RUNS_DIR, SCALE, Command, Key, Names
from scripts.cli.tables import show
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.plan import expand
from scripts.sweep.run_folders import ended_run
from tasks.engine import records
from tasks.engine.config import Config, read_config
from tasks.engine.errors import UserError

if TYPE_CHECKING:
    from results.regime import Measured

COMMAND = Command(
    "scripts/regime.py",
    __doc__,
    Names("TASK", "a task of configs/task/", 1, 1, "gpt2"),
    (
        Key("scale", "one scale", without="all that an artefact of the task has", choices=SCALE.choices),
        Key("lr", "one learning rate", without="those of the task's artefacts"),
        RUNS_DIR,
    ),
)
COLUMNS = (
    "scale",
    "lr",
    "G 1x",
    "G 2x",
    "G 4x",
    "G end",
    "ρ",
    "end/2x",
    "regime",
    "Adam R(T)/R(0)",
    "κ/R(0)",
    "largest R/κ",
    "R > 1.05 κ",
    "active",
    "largest λ",
    "runs",
)


def main(arguments: list[str]) -> None:
    """Print the table."""
    request = COMMAND.parse(arguments)
    (task,), options = request.names, request.options
    scales = [options["scale"]] if "scale" in options else list(SCALE.choices)
    rows = []
    for scale in scales:
        configs = of_task(task, scale, options["runs_dir"])
        lrs = [float(options["lr"])] if "lr" in options else sorted({float(cfg.lr) for cfg in configs})
        for lr in lrs:
            rows.append(row(task, scale, lr, [cfg for cfg in configs if float(cfg.lr) == lr]))
    if not rows:
        raise UserError(f"no artefact trains the task {task}; set lr= and scale=")
    show(COLUMNS, rows)


def of_task(task: str, scale: str, runs_dir: str) -> list[DictConfig]:
    """Return the configurations of all artefacts that train a task at a scale, without repetitions."""
    found: dict[str, DictConfig] = {}
    for name in known_artefacts():
        artefact = load_artefact(name)
        if scale in artefact.scales and task in tasks_of(artefact, scale):
            configs = expand(artefact, {"scale": scale}, {"runs_dir": runs_dir})
            found |= {run_id: cfg for run_id, cfg in configs.items() if cfg.task.name == task}
    return list(found.values())


def tasks_of(artefact: Any, scale: str) -> set[str]:
    return {grid.task or artefact.task for grid in artefact.scales[scale].grids}


def row(task: str, scale: str, lr: float, configs: Sequence[DictConfig]) -> list[str]:
    """Return the table's row for one scale and learning rate."""
    cfg = read_config(compose_config([f"task={task}", f"scale={scale}", f"lr={lr}"]))
    adam, bounded = found_in(configs)
    return [
        scale,
        f"{lr:.4g}",
        *predicted(task, cfg),
        _middle(one.grown for one in adam),
        _middle(one.bound for one in bounded),
        _middle(one.most for one in bounded),
        _middle((one.above for one in bounded), ".0%"),
        _middle((one.active for one in bounded), ".0%"),
        _middle((one.largest_lambda for one in bounded), ".1e"),
        str(len(adam) + len(bounded) or "-"),
    ]


def predicted(task: str, cfg: Config) -> list[str]:
    """Return G at four moments, ρ, the part of the growth after 2x, and whether that is the paper's regime.
    G and ρ are dashes for a model that needs data or weights.
    """
    from results.regime import Place, of_the_paper
    from tasks.engine.regime import regime

    found = regime(cfg.task.schedule, cfg.lr, cfg.num_steps, initial_sizes(cfg) or [])
    growth = [found["growth"].get(moment) for moment in ("1x", "2x", "4x", "end")]
    numbers = ["-" if value is None else f"{value:.3g}" for value in (*growth, found["turn"], found["after"])]
    inside = Place(growth[1], found["turn"], found["after"], of_the_paper(task)).inside
    return [*numbers, {True: "inside", False: "outside", None: "-"}[inside]]


def initial_sizes(cfg: Config) -> list[float] | None:
    """Return the mean square of each regularized matrix at initialization, with the configured seed."""
    build = getattr(importlib.import_module(f"tasks.{cfg.task.name}.task"), "model", None)
    if build is None:
        return None
    from cpr import regularized_names
    from tasks.engine.seeding import seed_everything

    seed_everything(cfg.seed)
    model = build(cfg.task)
    parameters = dict(model.named_parameters())
    return [
        parameters[name].detach().square().mean().item() for name in regularized_names(model, cfg.task.reg_embedding)
    ]


def found_in(configs: Sequence[DictConfig]) -> "tuple[list[Measured], list[Measured]]":
    """Return what finished runs measured: AdamW's with the least weight decay, and AdamCPR's."""
    from results.regime import measured

    least = min((cfg.regularizer.weight_decay for cfg in configs if cfg.regularizer.name == "adamw"), default=None)
    adam: list[Measured] = []
    bounded: list[Measured] = []
    for cfg in configs:
        name = cfg.regularizer.name
        if not (name.startswith("adamcpr") or (name == "adamw" and cfg.regularizer.weight_decay == least)):
            continue
        run = ended_run(records.run_folder(cfg), set_aside=False)
        if run is not None and (sizes := measured(run)) is not None:
            (adam if name == "adamw" else bounded).append(sizes)
    return adam, bounded


def _middle(values: Iterable[float | None], form: str = ".3g") -> str:
    """Return the median of the values that are there, in a format."""
    there = [value for value in values if value is not None]
    return format(median(there), form) if there else "-"


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
