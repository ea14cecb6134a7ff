"""Colours, texts and files that figures share."""

import io
import itertools
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.files import write
from results.schema import Artefact

# Okabe and Ito: safe for colour-blind readers
COLOURS = ("#0072B2", "#56B4E9", "#999999", "#D55E00", "#E69F00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class BestCell:
    """The rows of one method's best cell, and their colour."""

    method: str
    setting: str
    colour: str
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        return self.method if self.setting == "-" else f"{self.method}, {self.setting}"


def best_cells(rows: pd.DataFrame) -> Iterator[BestCell]:
    """Yield the best cells in rows that have a method and a setting."""
    grouped = rows.groupby(["method", "setting"], sort=False)
    for colour, ((method, setting), own) in zip(itertools.cycle(COLOURS), grouped, strict=False):
        yield BestCell(method, setting, colour, own)


def title(figure: Figure, artefact: Artefact, data: str, text: str = "") -> None:
    """Write the artefact's title, or another text, and the data that our runs used over a figure."""
    where = "no runs yet" if data == "-" else f"here on {data}"
    words = f"{text or artefact.title}, {where} ({artefact.scale} scale)"
    figure.suptitle(wrapped(words, figure, 10.5), fontsize=10.5)


def wrapped(text: str, figure: Figure, points: float) -> str:
    """Wrap text to the figure's width. A character is about half as wide as its font size."""
    return textwrap.fill(text, int(figure.get_figwidth() * 72 / (0.55 * points)))


def footer(figure: Figure, text: str) -> None:
    """Write small grey text under a figure."""
    figure.supxlabel(wrapped(text, figure, 7.5), fontsize=7.5, color="#444444")


def open_axes(axes: Axes) -> None:
    """Leave out the frame's upper and right line."""
    axes.spines[["top", "right"]].set_visible(False)


def draw(figure: Figure, out_dir: Path, name: str = "figure", kinds: Collection[str] = ("png", "svg")) -> list[Path]:
    """Write <name>.png and <name>.svg, or only the given `kinds`."""
    files = []
    # Leave out the date and the random salt, which would make every file differ from the last.
    with matplotlib.rc_context({"svg.hashsalt": "cpr", "svg.fonttype": "path"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            if kind not in kinds:
                continue
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
            files.append(write(out_dir / f"{name}.{kind}", buffer.getvalue()))
    return files
