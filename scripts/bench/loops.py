"""The engine's training loop against a plain one:  python scripts/bench/loops.py [rounds=30] [steps=5] [key=value of train.py ...]

Same model, batch, data type and CPU, one process a loop, by turns: in each round every loop takes `steps` whole steps (batch, forward,
backward, clipping, optimizer, schedule, and of the engine its logs) while the others wait. Tokens a second, the ratio to the plain loop
of the same round (median and quartiles), and the memory beside what the imports take, at its peak.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench import plain_loop
from scripts.common import compose_config, one_line_errors
from tasks.engine.errors import UserError
from tasks.engine.run import run

LOOPS = {"plain, AdamW": None, "engine, AdamW": "adamw", "engine, AdamCPR IP": "adamcpr_ip", "engine, AdamCPR WS": "adamcpr_ws"}
WARM_UP = 3  # rounds that do not count


def work(regularizer: str | None, overrides: list[str], runs_dir: str, parent: Connection) -> None:
    """A loop in a process of its own, which takes a step for every message of its parent."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waiting = 0

    def turn() -> None:
        nonlocal waiting
        if waiting == 0:
            parent.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            waiting = parent.recv()
            if waiting == 0:
                sys.exit()  # nobody wants the rest of the run
        waiting -= 1

    if regularizer is None:
        plain_loop.train(compose_config(overrides), turn)
    else:
        cfg = compose_config([*overrides, f"regularizer={regularizer}", f"runs_dir={runs_dir}", "quiet=true"])
        run(cfg, progress=lambda steps: turn())


def measure(rounds: int, steps: int, overrides: list[str]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """loop -> seconds of each round, and KB at the peak."""
    context = multiprocessing.get_context("spawn")
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as runs_dir:
        ends: dict[str, Connection] = {}
        for name, regularizer in LOOPS.items():
            ends[name], other = context.Pipe()
            context.Process(target=work, args=(regularizer, overrides, runs_dir, other), daemon=True).start()
            other.close()
            ends[name].recv()
        names = list(LOOPS)
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


def report(seconds: dict[str, list[float]], memory: dict[str, int], tokens: int) -> list[str]:
    """A line a loop; `tokens`: of a round."""
    plain = seconds[next(iter(LOOPS))]
    lines = [f"{'loop':20} {'tokens/s':>10} {'x plain (quartiles)':>24} {'peak memory, MB':>16}"]
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(plain, times, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        spread = f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"{name:20} {tokens / median(times):10,.0f} {spread:>24} {memory[name] / 1024:16,.0f}")
    return lines


def main(arguments: list[str]) -> None:
    """Parses rounds=, steps= and keys of train.py."""
    given = dict(argument.split("=", 1) for argument in arguments)
    numbers: dict[str, Callable[[str], int]] = {"rounds": int, "steps": int}
    try:
        rounds, steps = (numbers[key](given.pop(key, default)) for key, default in (("rounds", "30"), ("steps", "5")))
    except ValueError as error:
        raise UserError(f"rounds= and steps= must be whole numbers: {error}") from None
    total = (WARM_UP + rounds + 1) * steps
    overrides = ["task=gpt2", "device=cpu", "task.eval_every_steps=null", "task.sample_tokens=0"]
    overrides += [f"{key}={value}" for key, value in given.items()] + [f"num_steps={total}"]
    cfg = compose_config(overrides)
    seconds, memory = measure(rounds, steps, overrides)
    about = {key: cfg.task[key] for key in ("batch_size", "precision")} | {"model": dict(cfg.task.model)}
    print(f"{json.dumps(about)}; {rounds} rounds of {steps} steps")
    print("\n".join(report(seconds, memory, steps * cfg.task.batch_size * cfg.task.model.context)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
