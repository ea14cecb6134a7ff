"""Compare the engine's loop with a plain one:  python scripts/bench/loops.py task=cifar100

All loops share model, batch, data type and CPU. Each has its own process, and they take turns. In
each round every loop takes `steps` whole steps (batch, forward, backward, clipping, optimizer,
schedule, and the engine's logs) while the others wait.

Prints tokens or images per second, the ratio to the plain loop in the same round (median and
quartiles), and the peak memory beyond that of the imports.
"""

import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import Command, Key, whole
from tasks.engine.config import read_config

# Arguments of scripts/bench/plain_<task>.py for a task's loops outside the engine. The others are
# compared with the first one.
PLAIN: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {"plain, AdamW": {}},
    "cifar100": {"plain, AdamW": {"augment": True}, "plain, images as they are": {"augment": False}},
}
ENGINE = {"engine, AdamW": "adamw", "engine, AdamCPR IP": "adamcpr_ip", "engine, AdamCPR WS": "adamcpr_ws"}
WARM_UP = 3  # rounds that do not count
COMMAND = Command(
    "scripts/bench/loops.py",
    __doc__,
    keys=(
        Key("task", "a task with a plain loop", "gpt2", choices=list(PLAIN)),
        Key("rounds", "measured rounds", 30, type=whole(2)),
        Key("steps", "steps of a round", 5, type=whole(1)),
    ),
    train_keys=True,
)


def work(task: str, name: str, overrides: list[str], runs_dir: str, parent: Connection) -> None:
    """Run a loop in its own process. It takes a step for every message of its parent."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waiting = 0

    def turn() -> None:
        nonlocal waiting
        if waiting == 0:
            parent.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            waiting = parent.recv()
            if waiting == 0:
                sys.exit()  # the rest of the run is not needed
        waiting -= 1

    if name in ENGINE:
        from tasks.engine.run import run

        cfg = compose_config([*overrides, f"regularizer={ENGINE[name]}", f"runs_dir={runs_dir}", "quiet=true"])
        run(cfg, progress=lambda steps: turn())
    else:
        plain = importlib.import_module(f"scripts.bench.plain_{task}")
        plain.train(read_config(compose_config(overrides)), turn, **PLAIN[task][name])


def measure(task: str, rounds: int, steps: int, overrides: list[str]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of each round by loop, and the peak memory in KB by loop."""
    context = multiprocessing.get_context("spawn")
    names = [*PLAIN[task], *ENGINE]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as runs_dir:
        ends: dict[str, Connection] = {}
        for name in names:
            ends[name], other = context.Pipe()
            context.Process(target=work, args=(task, name, overrides, runs_dir, other), daemon=True).start()
            other.close()
            ends[name].recv()
        for number in range(WARM_UP + rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begin = time.perf_counter()
                ends[name].send(steps)
                memory[name] = ends[name].recv()
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - begin)
        for end in ends.values():
            end.send(0)
    return seconds, memory


def report(seconds: dict[str, list[float]], memory: dict[str, int], unit: str, count: int) -> list[str]:
    """Return a line per loop, the plain one first. `count`: the number of tokens or images in a round."""
    plain = next(iter(seconds.values()))
    lines = [f"{'loop':26} {unit + '/s':>10} {'x plain (quartiles)':>24} {'peak memory, MB':>16}"]
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(plain, times, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        spread = f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"{name:26} {count / median(times):10,.0f} {spread:>24} {memory[name] / 1024:16,.0f}")
    return lines


def main(arguments: list[str]) -> None:
    """Measure and print."""
    request = COMMAND.parse(arguments)
    task, rounds, steps = (request.options[key] for key in ("task", "rounds", "steps"))
    total = (WARM_UP + rounds + 1) * steps
    overrides = [
        f"task={task}",
        "device=cpu",
        "task.eval_every_steps=null",
        *(["task.sample_tokens=0"] if task == "gpt2" else []),
    ]
    overrides += [f"{key}={value}" for key, value in request.overrides.items()] + [f"num_steps={total}"]
    cfg = compose_config(overrides)
    seconds, memory = measure(task, rounds, steps, overrides)
    about = {key: cfg.task[key] for key in ("batch_size", "precision")} | {"model": dict(cfg.task.model)}
    print(f"{json.dumps(about)}; {rounds} rounds of {steps} steps")
    if task == "cifar100":
        print(
            "memory format: channels first in the plain loops, as torch makes them, and channels last in the engine's"
        )
    unit, each = ("tokens", cfg.task.model.context) if task == "gpt2" else ("images", 1)
    print("\n".join(report(seconds, memory, unit, steps * cfg.task.batch_size * each)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
