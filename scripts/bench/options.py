"""The options of `make bench`, checked before anything is measured."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.bench.shapes import DEFAULT, SHAPES, Shape
from scripts.cli.common import ROOT
from tasks.engine.device import pick_device
from tasks.engine.errors import UserError

TABLES = ("table_i2", "table_i3")
ENOUGH_ROUNDS = 15
NAMES = (
    "rounds",
    "shapes",
    "device",
    "threads",
    "tables",
    "context",
    "batch",
    "memory_gb",
    "note",
    "results_dir",
    "rebuild",
)


@dataclass(frozen=True)
class Options:
    """The options of `make bench`.
    context: tokens of a sequence.
    batch: sequences of a step in Table I.3. None takes as many as fit.
    memory: bytes that may be used.
    note: a remark on this measurement for readers of the tables.
    """

    rounds: int
    shapes: tuple[Shape, ...]
    tables: tuple[str, ...]
    device: torch.device
    threads: int | None
    context: int
    batch: int | None
    memory: float
    note: str | None
    results: Path
    rebuild: bool


def parse(arguments: Sequence[str]) -> Options:
    """Return the options from arguments such as rounds=15.
    Raises UserError for an unknown option and for a value out of its range.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := [
        argument for argument in arguments if argument.partition("=")[0] not in NAMES or "=" not in argument
    ]:
        raise UserError(f"option {unknown[0]!r} is unknown; the options are {', '.join(f'{name}=' for name in NAMES)}")
    rebuild = _switch(given, "rebuild")
    device = (
        torch.device(given["device"])
        if rebuild and given.get("device") == "cuda"
        else pick_device(given.get("device", "cpu"))
    )
    on_gpu = device.type == "cuda"
    rounds = _number(given, "rounds", ENOUGH_ROUNDS)
    assert rounds is not None
    # A few rounds are only a trial, and must not replace a table that people rely on.
    folder = ROOT / "results" if rounds >= ENOUGH_ROUNDS else ROOT / "runs" / "results"
    context = _number(given, "context", 1024 if on_gpu else 128)
    assert context is not None
    return Options(
        rounds,
        tuple(SHAPES[name] for name in _names(given, "shapes", SHAPES, [shape.name for shape in DEFAULT])),
        tuple(_names(given, "tables", TABLES, TABLES)),
        device,
        _number(given, "threads", None, most=os.cpu_count()),
        context,
        _number(given, "batch", None if on_gpu else 4),
        _memory(given),
        given.get("note"),
        Path(given.get("results_dir", folder)) / ("paper" if on_gpu else "mini"),
        rebuild,
    )


def _number(given: dict[str, str], name: str, default: int | None, most: int | None = None) -> int | None:
    if name not in given:
        return default
    if not given[name].isdigit() or int(given[name]) < 1 or (most is not None and int(given[name]) > most):
        raise UserError(f"{name}={given[name]} must be a whole number >= 1" + (f" and <= {most}" if most else ""))
    return int(given[name])


def _names(
    given: dict[str, str], name: str, known: Sequence[str] | dict[str, Shape], default: Sequence[str]
) -> list[str]:
    chosen = list(dict.fromkeys(given[name].split(","))) if name in given else list(default)
    if unknown := [one for one in chosen if one not in known]:
        raise UserError(f"{name}={','.join(unknown)} is unknown; choose of {', '.join(known)}")
    return chosen


def _memory(given: dict[str, str]) -> float:
    try:
        limit = float(given.get("memory_gb", "inf"))
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise UserError(f"memory_gb={given['memory_gb']} must be a number > 0")
    return limit * 1e9


def _switch(given: dict[str, str], name: str) -> bool:
    if given.get(name, "false") not in ("true", "false"):
        raise UserError(f"{name}={given[name]} must be true or false")
    return given.get(name) == "true"
