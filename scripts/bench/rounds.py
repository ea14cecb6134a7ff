"""Measure the shapes of Tables I.2 and I.3, and keep what was measured in rounds.json beside the tables."""

import json
import math
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from results.step_times import IN_TURN_PART, write_step_times
from scripts.bench.measure import Bench, Timing
from scripts.bench.memory import free_bytes
from scripts.bench.options import Options
from scripts.bench.plan import Plan, plan
from scripts.bench.shapes import Shape
from tasks.engine.code import git_commit
from tasks.engine.environment import hardware, versions
from tasks.engine.errors import UserError
from tasks.engine.files import write_bytes_atomically
from tasks.engine.terminal import say
from tasks.gpt2.model import GPT2

RECORD = "rounds.json"


def measure_all(options: Options) -> list[str]:
    """Measure one shape after the other, write the tables after each, and return their texts."""
    for table in options.tables:
        read_record(options.results / table / RECORD)
    warnings.filterwarnings("ignore", module="pytorch_cpr")
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
    plans = {shape: parts_of(shape, options) for shape in options.shapes}
    total = sum(
        todo.calls(options) * todo.cost(facts_of(shape, options)["parameters"], options)
        for shape, parts in plans.items()
        for todo in parts.values()
    )
    texts: dict[str, str] = {}
    style = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, mininterval=0.5 if sys.stderr.isatty() else 30, dynamic_ncols=True, bar_format=style) as bar:
        for shape, parts in plans.items():
            bar.set_description_str(shape.name)
            for table, measured in measure_shape(shape, parts, options, bar).items():
                texts[table] = write_table(table, options, {shape.name: measured})
    return list(texts.values())


def parts_of(shape: Shape, options: Options) -> dict[tuple[str, str], Plan]:
    """Return (table, part) -> plan. A batch that is still to be found is planned as 1."""
    found = {}
    if "table_i2" in options.tables:
        found["table_i2", "optimizer_step"] = plan(shape, 0, options)
        if shape.in_turn:
            found["table_i2", IN_TURN_PART] = plan(shape, 0, options, in_turn=True)
    if isinstance(shape.on_paper(), GPT2):
        for table, batch in (("table_i2", 1), ("table_i3", options.batch or 1)):
            if table in options.tables:
                found[table, "training_step"] = plan(shape, batch, options)
    return found


def measure_part(bench: Bench, part: str, todo: Plan, options: Options) -> dict[str, Any]:
    """Return the record of one part: every round's seconds, and the memory bandwidth in it."""
    bf16 = options.device.type == "cuda"
    record: dict[str, Any] = {"rounds": options.rounds}
    timings: dict[str, Timing]
    if part == "training_step":
        record |= {"batch": todo.batch, "context": options.context, "precision": "bf16" if bf16 else "fp32"}
        timings = bench.training_step(todo.methods, options.rounds, todo.batch, options.context, bf16)
    else:
        timings = bench.optimizer_step(todo.methods, options.rounds)
    record["bandwidth"] = {name: [rates[name] for rates in bench.bandwidth] for name in bench.bandwidth[0]}
    by_label = {method.label: method for method in todo.methods}
    record["methods"] = {
        label: {"row": by_label[label].row, "bytes_moved_per_parameter": by_label[label].moved, **timing.__dict__}
        for label, timing in timings.items()
    }
    return record


def measure_shape(
    shape: Shape, parts: dict[tuple[str, str], Plan], options: Options, bar: tqdm
) -> dict[str, dict[str, Any]]:
    """Return the shape's record by table, including what did not fit."""
    facts = facts_of(shape, options)
    bench = None
    if any(todo.methods for todo in parts.values()):
        bench = Bench(shape.built(options.device), options.device)
    found: dict[str, dict[str, Any]] = {table: dict(facts) for table, _ in parts}
    for (table, part), todo in parts.items():
        for label, reason in todo.skipped.items():
            say(f"{shape.name}, {part.replace('_', ' ')}: {label} skipped: {reason}")
        measured: dict[str, Any] = {"methods": {}}
        if bench is not None and todo.methods:
            if table == "table_i3" and options.batch is None:
                planned = todo.cost(facts["parameters"], options)
                todo.batch = most_sequences(bench, todo, options)
                bar.total += (todo.cost(facts["parameters"], options) - planned) * todo.calls(options)
            bench.tick = partial(bar.update, todo.cost(facts["parameters"], options))
            measured = measure_part(bench, part, todo, options)
        found[table][part] = measured | {"skipped": todo.skipped}
    return found


def facts_of(shape: Shape, options: Options) -> dict[str, Any]:
    """Return what a record says about the shape, the machine and the code."""
    sizes = [p.numel() for p in shape.on_paper().parameters()]
    return {
        "title": shape.title,
        "parameters": sum(sizes),
        "tensors": len(sizes),
        "hardware": hardware(options.device) | {"device": options.device.type},
        "versions": versions(),
        "git_commit": git_commit(),
        "memory_gb": options.memory / 1e9 if math.isfinite(options.memory) else None,
        "note": options.note,
    }


def most_sequences(bench: Bench, todo: Plan, options: Options) -> int:
    """Return the largest batch with which a training step of every method fits."""
    available = min(free_bytes(options.device), options.memory) - max(
        method.extra_bytes(bench.model) for method in todo.methods
    )
    return bench.largest_batch(todo.methods[0], options.context, options.device.type == "cuda", int(available))


def read_record(path: Path) -> dict[str, Any]:
    """Return the record at `path`, or an empty one if there is none.
    Raises UserError if it is damaged.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else {"shapes": {}}
    except ValueError:
        raise UserError(f"{path} is damaged; delete it, and measure again") from None


def write_table(table: str, options: Options, measured: dict[str, Any]) -> str:
    """Add shapes to the table's record, write the table from it, and return the text to print."""
    folder = options.results / table
    folder.mkdir(parents=True, exist_ok=True)
    record = read_record(folder / RECORD)
    record["shapes"] |= measured
    if not record["shapes"]:
        raise UserError(f"{folder} holds no measurement; make bench makes one")
    if measured:
        write_bytes_atomically(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    return write_step_times(table, record, folder)
