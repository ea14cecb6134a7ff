"""Runs with chosen values for the tests of results: no training, no torch."""

import itertools
import random
from pathlib import Path

import pandas as pd
import pytest

from results import Run
from results.artefact_file import read_artefact
from results.runs import frame
from results.schema import Artefact, Method, at_scale

ROOT = Path(__file__).resolve().parents[1]
LRS, SEEDS = (1e-3, 3.162e-3, 1e-2), (1, 2, 3)
SETTINGS = {"adamw": (0, 1e-3, 1e-2, 1e-1), "adamcpr_ip": (None,), "adamcpr_ws": ("1x", "2x", "4x")}
either_metric = pytest.mark.parametrize("better", ["higher", "lower"])


def artefact(name: str) -> Artefact:
    return read_artefact(ROOT / "configs" / "artefact" / f"{name}.yaml")


FIGURE2, EVALUATE_AT = (at_scale(artefact(name), "mini") for name in ("figure2", "evaluate_at"))
GROKKING = at_scale(artefact("grokking"), "paper")
CPR, *ADAMW = (
    method for name in ("AdamCPR kI0 0.8, L2", "AdamW") for method in GROKKING.methods if method.title.startswith(name)
)


def changed(definition: Artefact, **keys) -> Artefact:
    """The artefact with other values of some of its keys."""
    return definition.model_copy(update=keys)


def measured_by(better: str, definition: Artefact = FIGURE2) -> Artefact:
    return changed(definition, metric=definition.metric.model_copy(update={"better": better}))


def run(
    name: str, seed: int, final: dict | None, *, lr: float = 1e-3, metrics: tuple = (), task: str = "a_task", **settings
) -> Run:
    """Return a run that finished with the metrics `final`, or diverged (None)."""
    about = {"name": task, "data": {"description": "40 images"}}
    config = {"seed": seed, "lr": lr, "num_steps": 80, "regularizer": {"name": name} | settings, "task": about}
    record = {
        "run_id": f"{name}-{seed}-{lr}-{settings}",
        "status": "finished" if final else "diverged",
        "metrics": final or {},
    }
    hardware = {"cpu": "a processor", "cores": 2, "threads": 1, "gpu": None}
    made = {
        "seconds": 0.1 * seed,
        "git_commit": "abc",
        "versions": {"python": "3.11", "torch": "2"},
        "hardware": hardware,
    }
    return Run(config, record | made, metrics)


def out_of_memory(one: Run) -> Run:
    """Return the run as one that failed out of memory."""
    return Run(
        one.config, one.record | {"status": "failed", "metrics": {}, "reason": "out of memory at step 3, in 3 attempts"}
    )


def grid(value, scale: str = "small", seeds=SEEDS) -> list[Run]:
    """Return Figure 2's runs with the accuracy value(name, lr, setting, seed). None is a diverged run."""
    runs = []
    for one in FIGURE2.scales[scale].grids:
        keys = [key.removeprefix("regularizer.") for key in one.axes if key != "lr"]
        axes = one.axes["lr"], *(one.axes[f"regularizer.{key}"] for key in keys)
        for seed, lr, *point in itertools.product(seeds, *axes):
            accuracy = value(one.regularizer, lr, point[0] if point else None, seed)
            final = None if accuracy is None else {"top1_accuracy": accuracy}
            runs.append(run(one.regularizer, seed, final, lr=lr, **dict(zip(keys, point, strict=True))))
    return runs


def noisy(*cell) -> float:
    return random.Random(str(cell)).gauss(80, 2)


def figure2_data(value, **options) -> pd.DataFrame:
    return frame(grid(value, **options), "top1_accuracy")


def curve(method: Method, seed: int, reached: int | None, diverged: bool = False, target: float = 95.0) -> Run:
    """A run of 10 epochs of 8 steps, evaluated at each, that first is exactly at the target at step `reached`."""
    settings = {key.removeprefix("regularizer."): value for key, value in method.select.items()}
    logged = [{"step": step, "loss": 1.0, "lr": 1e-3} for step in range(4, 81, 4)]
    accuracy = {step: target if reached and step >= reached else target - 80 for step in range(8, 81, 8)}
    evaluated = [
        {"step": step, "validation_accuracy": value, "train_accuracy": 99.0} for step, value in accuracy.items()
    ]
    final = None if diverged else {"validation_accuracy": accuracy[80] + seed / 10, "train_accuracy": 99.0}
    return run(method.regularizer, seed, final, metrics=(*logged, *evaluated), **settings)


def accuracy_pairs(difference, seeds=range(1, 13)) -> list[Run]:
    """Return two runs per learning rate and seed of evaluate_at's cifar100 part.

    Their accuracies are 80 and 80 + difference(lr, seed). None is a diverged run."""
    runs = []
    for lr, seed in itertools.product((1e-3, 1e-2), seeds):
        second = difference(lr, seed)
        finals = {
            "before": {"top1_accuracy": 80.0},
            "after": None if second is None else {"top1_accuracy": 80.0 + second},
        }
        runs += [
            run("adamcpr_ws", seed, final, lr=lr, task="cifar100", evaluate_at=value) for value, final in finals.items()
        ]
    return runs


def epoch_pairs(epochs) -> list[Run]:
    """Return two runs per seed of evaluate_at's grokking part.

    epochs[seed - 1] are those at which `before` and `after` reach 95 %, or None."""
    runs = []
    for seed, pair in enumerate(epochs, 1):
        for value, epoch in zip(("before", "after"), pair, strict=True):
            metrics = [
                {"step": 8 * e, "validation_accuracy": 95.0 if epoch and e >= epoch else 20.0}
                for e in range(10, 451, 10)
            ]
            final = {"validation_accuracy": metrics[-1]["validation_accuracy"]}
            runs.append(run("adamcpr_ki0", seed, final, metrics=tuple(metrics), task="grokking", evaluate_at=value))
    return runs


def evaluate_at_runs() -> list[Run]:
    return accuracy_pairs(lambda lr, seed: seed / 10 - 0.2, SEEDS) + epoch_pairs([(10, 20), (20, 20), (None, 30)])
