"""The options of `make bench`, checked before anything is measured."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench.shapes import DEFAULT, SHAPES, Shape
from scripts.cli.parser import ROOT, Key, several_of, whole

if TYPE_CHECKING:
    import torch

TABLES = ("table_i2", "table_i3")
ENOUGH_ROUNDS = 15


def gigabytes(given: str) -> float:
    """Return bytes. Raises ValueError for anything but a number > 0."""
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ValueError("must be a number > 0")
    return limit * 1e9


KEYS = (
    Key(
        "rounds",
        f"measured rounds; with fewer than {ENOUGH_ROUNDS} the tables go to runs/results/",
        ENOUGH_ROUNDS,
        type=whole(1),
    ),
    Key("shapes", f"of {', '.join(SHAPES)}", without="all but tiny", type=several_of(list(SHAPES))),
    Key("tables", f"of {', '.join(TABLES)}", without="both", type=several_of(TABLES)),
    Key("device", "cpu or cuda", "cpu"),
    Key("threads", "threads of torch", without="torch's own", type=whole(1, os.cpu_count())),
    Key("context", "tokens of a sequence", without="128, on a GPU 1024", type=whole(1)),
    Key("batch", "sequences of a step in Table I.3", without="4, on a GPU as many as fit", type=whole(1)),
    Key("memory_gb", "a limit on the memory in use", without="what is free", type=gigabytes),
    Key("note", "a sentence for the tables' readers"),
    Key("results_dir", "the folder of the tables", without="results"),
    Key(
        "rebuild",
        "true: write the tables from what was measured, on any machine",
        "false",
        choices=("true", "false"),
    ),
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
    device: "torch.device"
    threads: int | None
    context: int
    batch: int | None
    memory: float
    note: str | None
    results: Path
    rebuild: bool


def options_of(given: dict[str, Any]) -> Options:
    """Return the options from the values of `KEYS`.
    Raises UserError if this machine has no such device.
    """
    import torch

    from tasks.engine.device import pick_device

    rebuild = given["rebuild"] == "true"
    device = torch.device("cuda") if rebuild and given["device"] == "cuda" else pick_device(given["device"])
    on_gpu = device.type == "cuda"
    # A few rounds are only a trial, and must not replace a table that people rely on.
    folder = ROOT / "results" if given["rounds"] >= ENOUGH_ROUNDS else ROOT / "runs" / "results"
    return Options(
        given["rounds"],
        tuple(SHAPES[name] for name in given.get("shapes", [shape.name for shape in DEFAULT])),
        tuple(given.get("tables", TABLES)),
        device,
        given.get("threads"),
        given.get("context", 1024 if on_gpu else 128),
        given.get("batch", None if on_gpu else 4),
        given.get("memory_gb", math.inf),
        given.get("note"),
        Path(given.get("results_dir", folder)) / ("paper" if on_gpu else "mini"),
        rebuild,
    )
