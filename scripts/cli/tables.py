"""Print tables and durations: rich tables at a terminal, aligned plain text anywhere else."""

import re
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

NUMBER = re.compile(r"[-+]?[\d.,:]+(e[-+]?\d+)?")  # or a duration


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the rows, without columns that are empty in every row. Numbers are aligned on the right."""
    kept = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    lines = [[str(row[number]) for number in kept] for row in (columns, *rows)]
    numeric = [all(NUMBER.fullmatch(cell) for cell in column[1:] if cell) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, right in zip(lines[0], numeric, strict=True):
            table.add_column(name, overflow="fold", justify="right" if right else "left")
        for line in lines[1:]:
            table.add_row(*line)
        Console(markup=False, highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, numeric, strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells).rstrip())


def duration(seconds: float) -> str:
    """Return seconds as H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def hours(seconds: float, unit: str) -> str:
    """Return hours of a core or a GPU, with three significant digits or all digits before the point."""
    number = seconds / 3600
    return f"{f'{number:,.0f}' if number >= 999.5 else f'{number:.3g}'} {unit}-hours"


def size(count: int) -> str:
    """Return bytes as B, kB, MB or GB (powers of 1,000)."""
    number, names = float(count), ["B", "kB", "MB", "GB"]
    while number >= 999.5 and len(names) > 1:
        number, names = number / 1000, names[1:]
    return f"{number:.3g} {names[0]}"
