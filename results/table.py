"""Tables with ours beside the paper's, as Markdown, CSV and LaTeX."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from results.heatmap import power_of_ten
from results.published import published_cells
from results.runs import Run, best_cell, held_out_best, panel_cells
from results.verdicts import Verdict

HELD_OUT = "ours, chosen by half of the test set and scored on the other"
SYMBOLS = str.maketrans({"±": r"$\pm$", "α": r"$\alpha$", "κ": r"$\kappa$", "λ": r"$\lambda$", "μ": r"$\mu$"})
TASKS_WITH_HALVES = (
    "cifar100",
    "cifar100c",
    "clip",
    "gpt2",
    "imagenet",
    "lora",
)  # tasks that score the halves of tasks/engine/halves.py


def cell_table(artefact: Mapping[str, Any], data: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Return a row per cell of our grid: mean, std and seeds of ours and the paper's, and the means'
    difference.

    A panel may have its own number of `seeds`, if its grids do.
    """
    parts = []
    for panel in artefact["panels"]:
        ours = panel_cells(artefact, panel, data)
        theirs = published_cells(artefact, panel).rename(columns={"diverged": "diverged_paper"})
        # The paper's 0.0003162 and a configured 3.162e-4 are the same row, so floats are joined by
        # their printed power of ten. If the paper has only one row, its cells may stand beside ours
        # of any row.
        for table in (ours, theirs):
            table["key"] = "" if artefact.get("published_beside") == "every row" else table["row"].map(power_of_ten)
        joined = ours.merge(theirs.drop(columns="row"), on=["key", "column"], how="left", suffixes=("", "_paper")).drop(
            columns="key"
        )
        joined.insert(0, "method", panel["title"])
        joined["expected"] = panel.get("seeds", seeds)
        parts.append(joined)
    table = pd.concat(parts, ignore_index=True)
    table["difference"] = table["mean"] - pd.to_numeric(table["mean_paper"])
    table["missing"] = (table.pop("expected") - table["seeds"] - table["diverged"]).clip(lower=0)
    return table.rename(columns={"row": artefact["row"], "column": "setting"})


def readable(artefact: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """Return `cell_table` for people: mean ± std (seeds), with missing and diverged runs noted in the
    cell.
    """
    rows, digits = [], artefact["metric"].get("digits", 1)
    for _, cell in table.iterrows():
        # the paper leaves one cell open ("TBA")
        without_value = {1: "diverged", 0: "TBA"}.get(cell["diverged_paper"], "-")
        paper = (
            f"{cell['mean_paper']:.{digits}f}{spread(cell['std_paper'])}"
            if pd.notna(cell["mean_paper"])
            else without_value
        )
        rows.append(
            {
                "method": cell["method"],
                artefact["row"]: power_of_ten(cell[artefact["row"]]),
                "setting": cell["setting"] or "-",
                "ours": _ours(cell),
                "paper": paper,
                "ours - paper": f"{cell['difference']:+.2f}" if pd.notna(cell["difference"]) else "-",
            }
        )
    return pd.DataFrame(rows)


def best_table(artefact: Mapping[str, Any], data: pd.DataFrame) -> pd.DataFrame:
    """Return the best cell of every method, ours and the paper's, both by the printed scores.

    If the runs have scores on halves, add the cell chosen by one half of the test examples, with
    its score on the other half.
    """
    rows = []
    for panel in artefact["panels"]:
        row: dict[str, str] = {"method": panel["title"]}
        ours = panel_cells(artefact, panel, data)
        for title, table in (("ours", ours), ("paper", published_cells(artefact, panel))):
            row[f"best of {title}"] = _with_setting(best_cell(table, artefact["metric"]["better"]))
        row[HELD_OUT] = _with_setting(held_out_best(artefact, panel, data))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if (table[HELD_OUT] != "-").any() else table.drop(columns=HELD_OUT)


def held_out_note(artefact: Mapping[str, Any], runs: Sequence[Run], best: pd.DataFrame) -> str:
    """Explain why the `best_table` has no cells chosen by half of the test set; empty if it has, or
    without runs.
    """
    if HELD_OUT in best or not runs:
        return ""
    tasks = {run.config["task"]["name"] for run in runs}
    if any(name.endswith("_selection") for run in runs for name in run.record["metrics"]):
        why = "this score is not written for halves"
    else:
        why = (
            "these runs are of a time before scores on halves"
            if tasks & {*TASKS_WITH_HALVES}
            else "this task writes no scores on halves"
        )
    chosen = "The best of ours are chosen by the scores that are printed, as in the paper."
    return f"{chosen} There are none chosen by one half of the test set and scored on the other: {why}."


def _with_setting(best: pd.Series | None) -> str:
    if best is None:
        return "-"
    setting = f", {best['column']}" if best["column"] else ""
    return f"{best['mean']:.2f}{spread(best['std'])} (lr {power_of_ten(best['row'])}{setting})"


def claims_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """Return a row per claim."""
    rows = [{"claim": v.text, "published": v.published, "ours": v.ours, "verdict": v.verdict} for v in verdicts]
    return pd.DataFrame(rows, columns=["claim", "published", "ours", "verdict"])


def markdown(table: pd.DataFrame) -> str:
    """Return a pipe table with aligned columns."""
    rows = [
        ["" if pd.isna(v) else str(v).replace("|", "\\|") for v in row]
        for row in (table.columns, *table.itertuples(index=False))
    ]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(table.columns))]
    lines = ["| " + " | ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def latex(table: pd.DataFrame, caption: str) -> str:
    """Return a booktabs table in ASCII. Special characters are escaped."""
    text = table.to_latex(index=False, escape=True, caption=re.sub(r"([&%$#_{}])", r"\\\1", caption), na_rep="-")
    return text.translate(SYMBOLS)


def spread(std: Any, digits: int = 2) -> str:
    """Return the " ± std" after a mean; empty for a single seed."""
    return f" ± {std:.{digits}f}" if pd.notna(std) else ""


def _ours(cell: pd.Series) -> str:
    notes = [f"{cell['seeds']} seeds" if cell["seeds"] != 1 else "1 seed"]
    notes += [f"{cell['diverged']} diverged"] if cell["diverged"] else []
    notes += [f"{cell['missing']} missing"] if cell["missing"] else []
    value = f"{cell['mean']:.2f}{spread(cell['std'])}" if pd.notna(cell["mean"]) else "-"
    return f"{value} ({', '.join(notes)})"
