"""Does a run do what Algorithm 1 says? mechanism.csv and mechanism.md of a scale, and a sentence for each task.

`scripts/mechanism.py` replays the first steps of runs (tasks/engine/replay.py) and gives a row for each.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from results.files import write
from results.table import markdown

NAME = "mechanism"
TITLE = "Mechanism: runs replayed with Algorithm 1"
Row = Mapping[str, str]
COLUMNS = (
    *("task", "regularizer", "kappa_init", "kappa_init_param", "lr", "steps", "matrices", "bounds"),
    *("theta", "lambda", "kappa", "same_steps", "ties", "outcome"),
    *("largest_ratio", "above", "active", "kernel", "hardware", "versions", "code"),
)
# The names of κ initializations, and of their parameters.
KAPPAS = {
    "inflection_point": ("Kappa-IP", "sampling interval {}"),
    "warm_start": ("Kappa-WS", "s = {}"),
    "dependent": ("Kappa-kI0", "k = {}"),
    "uniform": ("Kappa-K", "κ = {}"),
}
# Columns of the two tables of mechanism.md, with their titles.
COMPARED = {
    "task": "task",
    "bound": "κ",
    "lr": "lr",
    "steps": "steps",
    "matrices": "matrices",
    "bounds": "with a bound",
    "theta": "difference of θ",
    "lambda": "of λ",
    "kappa": "of κ",
    "same_steps": "κ set at the same steps",
    "outcome": "outcome",
}
BESIDE = {
    "task": "task",
    "bound": "κ",
    "largest_ratio": "largest R/κ",
    "above": "R > 1.05 κ",
    "active": "λ > 0",
}
READING = (
    "Each run begins as its configuration says. `cpr/reference.py`, Algorithm 1 for one matrix, repeats every "
    "step with the run's gradients. It starts from the run's initial weights and carries its own weights, "
    "moments, λ and κ in float64. A difference is the largest over all steps and matrices: of θ relative to the "
    "matrix's largest element, of λ relative to its largest λ or μR so far, of κ relative to κ. *Reproduced* "
    "means that they stay within what rounding to float32 can explain (θ 4, λ and κ 32 roundings of 2⁻²⁴ a step, "
    "`tasks/engine/replay.py`), and that both set every κ at the same step. *No bound* means that no κ was set in "
    "these steps."
)
SHARES = "Shares are of all pairs of a matrix and a step. R may exceed κ: a bound pulls, it does not clip."


def read(folder: Path) -> list[dict[str, str]]:
    """Return the rows of <folder>/mechanism.csv, none without that file."""
    path = folder / f"{NAME}.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def write_mechanism(rows: Sequence[Row], folder: Path, command: str) -> str:
    """Write mechanism.csv and mechanism.md into a scale's folder. Return the text to print.

    Rows of other tasks that the folder already has are kept.

    Args:
        rows: a row per run, with the keys of COLUMNS.
        folder: results/<scale>.
        command: what makes all of the scale's rows.
    """
    new = {row["task"] for row in rows}
    everything = sorted([row for row in read(folder) if row["task"] not in new] + list(rows), key=_place)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(everything)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{NAME}.csv", text.getvalue())
    page = write(folder / f"{NAME}.md", _page(everything, folder.name, command))
    return f"{markdown(_table(everything, COMPARED))}\n\n{page}"


def _place(row: Row) -> tuple[str, int]:
    return row["task"], list(KAPPAS).index(row["kappa_init"])


def _page(rows: Sequence[Row], scale: str, command: str) -> str:
    facts = {"scale": scale, "steps": _distinct(rows, "steps")}
    facts |= {name: _distinct(rows, name) for name in ("hardware", "versions", "kernel", "code")}
    lines = [f"# {TITLE}", "", *(f"- {name}: {fact}" for name, fact in facts.items()), f"- command: `{command}`", ""]
    lines += [markdown(_table(rows, COMPARED)), "", READING, ""]
    return "\n".join([*lines, "## How hard the bounds act", "", markdown(_table(rows, BESIDE)), "", SHARES, ""])


def _table(rows: Sequence[Row], titles: Mapping[str, str]) -> pd.DataFrame:
    shown = [{**row, "bound": _bound(row), "same_steps": _same_steps(row)} for row in rows]
    return pd.DataFrame([[row[name] for name in titles] for row in shown], columns=[*titles.values()])


def _bound(row: Row) -> str:
    name, parameter = KAPPAS[row["kappa_init"]]
    return f"{name}, {parameter.format(row['kappa_init_param'])}"


def _same_steps(row: Row) -> str:
    return row["same_steps"] + (f", {row['ties']} within rounding" if row["ties"] != "0" else "")


def _distinct(rows: Sequence[Row], name: str) -> str:
    return ", ".join(dict.fromkeys(row[name] for row in rows))


def sentence(folder: Path, task: str) -> str:
    """Return in words what the replays of a task showed, from <folder>/mechanism.csv. Empty without that file."""
    every = read(folder)
    if not every:
        return ""
    rows = [row for row in every if row["task"] == task]
    by_outcome = {
        name: [row for row in rows if row["outcome"] == name] for name in ("differs", "reproduced", "no bound")
    }
    said = []
    if same := by_outcome["reproduced"]:
        said.append(f"λ, κ and θ of AdamCPR {_named(same)} equal the reference over {_steps(same)} ({_worst(same)}).")
    if other := by_outcome["differs"]:
        steps = ", κ is set at other steps" if any(row["same_steps"] == "no" for row in other) else ""
        said.append(f"AdamCPR {_named(other)} leaves the reference within {_steps(other)} ({_worst(other)}{steps}).")
    if none := by_outcome["no bound"]:
        said.append(f"AdamCPR {_named(none)} set no κ within {_steps(none)}.")
    outcome = "differs" if other else "reproduced" if same else "not replayed"
    return " ".join([f"Mechanism: {outcome}.", *said])


def _named(rows: Sequence[Row]) -> str:
    *names, last = [KAPPAS[row["kappa_init"]][0] for row in rows]
    return f"{', '.join(names)} and {last}" if names else last


def _steps(rows: Sequence[Row]) -> str:
    return f"{' and '.join(dict.fromkeys(row['steps'] for row in rows))} steps"


def _worst(rows: Sequence[Row]) -> str:
    largest = max(float(row[name]) for row in rows for name in ("theta", "lambda", "kappa"))
    return f"largest relative difference {largest:.0e}".replace("e-0", "e-").replace("e+0", "e+")
