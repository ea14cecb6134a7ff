"""List every run's final scores if a run is a fold of cross-validation.

There is a row per run and label, for all cells and not only the best.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.files import write
from results.runs import Run, flatten, frame, label, of_panel
from results.schema import Artefact

MEAN = "mean"


def folds(artefact: Artefact, runs: Sequence[Run]) -> pd.DataFrame:
    """Return a table with method, the artefact's row, setting, seed, fold, label and metric.

    Label "mean" is the metric itself, over the labels. A diverged run has one row, without a score.
    """
    name, by_id = artefact.metric.name, {run.run_id: run for run in runs}
    data, rows = frame(runs, name), []
    for panel in artefact.panels:
        for run_id in of_panel(data, panel)["run_id"]:
            run, config = by_id[run_id], flatten(by_id[run_id].config)
            setting = label(config[panel.column]) if panel.column else "-"
            about = {"method": panel.title, artefact.row: config[artefact.row], "setting": setting}
            about |= {"seed": config["seed"], "fold": fold_of(config)}
            rows += [about | {"label": key, name: value} for key, value in _by_label(run, name).items()]
    table = pd.DataFrame(rows, columns=["method", artefact.row, "setting", "seed", "fold", "label", name])
    order = {panel.title: number for number, panel in enumerate(artefact.panels)}
    return table.sort_values(
        ["method", "setting", "fold", "seed"], key=lambda c: c.map(order) if c.name == "method" else c, kind="stable"
    )


def files(artefact: Artefact, runs: Sequence[Run], out_dir: Path, foot: str) -> tuple[str, list[Path]]:
    """Write folds.csv. Return the page's line on it, or nothing without the artefact's `folds`."""
    if artefact.folds is None or not runs:
        return "", []
    return f"\n{artefact.folds}\n", [write(out_dir / "folds.csv", folds(artefact, runs).to_csv(index=False))]


def fold_of(config: Mapping[str, Any]) -> int:
    """Return the validation fold of a run from its flattened configuration: the configured one, else
    the seed's.
    """
    fold = config["task.fold"]
    return (config["seed"] - 1) % config["task.folds"] if fold is None else fold


def _by_label(run: Run, name: str) -> dict[str, float | None]:
    found = {key.removeprefix(f"{name}_"): value for key, value in run.scores.items() if key.startswith(f"{name}_")}
    return {MEAN: run.scores.get(name)} | found
