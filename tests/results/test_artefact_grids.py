"""Every published cell of a heat map has a run at paper scale, and mini scale fills every panel."""

import random

import pytest
import yaml
from made_runs import artefact, run
from torch import nn

from results import Run, write_artefact
from results.cells import cell_table, published_cells
from results.published import FOLDER
from results.runs import frame
from results.schema import at_scale
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.plan import expand
from tasks.engine.config import read_config
from tasks.engine.optimizers import build_optimizer
from tasks.engine.records import identity

NAMES = [name for name in known_artefacts() if load_artefact(name).layout == "heatmap"]
PUBLISHED = [name for name in NAMES if (FOLDER / f"{name}.yaml").exists()]  # not the artefacts that are our own


def planned(name: str, scale: str) -> list[Run]:
    """Return a run for every configuration of the artefact's grids, at paper scale for one seed.

    Each run has every metric that a panel needs.

    Raises UserError for settings with which no optimizer can be made.
    """
    definition, runs = load_artefact(name), []
    metrics = {definition.metric.name} | {panel.metric for panel in definition.panels if panel.metric}
    options = {"scale": scale} | ({"seeds": "1"} if scale == "paper" else {})
    for number, (run_id, cfg) in enumerate(expand(definition, options, {}).items()):
        build_optimizer(read_config(cfg), nn.Linear(2, 2))
        draw = random.Random(number)
        made = run("a", 1, {metric: draw.uniform(60, 70) for metric in sorted(metrics)})
        runs.append(Run(identity(cfg), made.record | {"run_id": run_id}))
    return runs


def published_rows(name: str) -> list[dict]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["rows"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_cell_stands_beside_a_run_of_the_paper_s_grid(name):
    definition = at_scale(artefact(name), "paper")
    table = cell_table(definition, frame(planned(name, "paper"), definition.metric.name), seeds=1)
    rows = published_rows(name)
    assert table["mean_paper"].notna().sum() == sum(row["mean"] is not None for row in rows)
    assert (table["diverged_paper"] == 1).sum() == sum(row.get("diverged", False) for row in rows)
    assert (table["seeds"] == 1).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_published_row_belongs_to_two_panels(name):
    panels = at_scale(artefact(name), "paper").panels
    assert sum(len(published_cells(artefact(name), panel)) for panel in panels) == len(published_rows(name))


@pytest.mark.parametrize("name", NAMES)
def test_mini_scale_fills_every_panel_and_is_written(name, tmp_path):
    runs, definition = planned(name, "mini"), at_scale(artefact(name), "mini")
    table = cell_table(definition, frame(runs, definition.metric.name), seeds=3)
    assert set(table["method"]) == {panel.title for panel in definition.panels}
    apart = len({panel.metric for panel in definition.panels})  # a run is in one cell of each metric's panels
    assert table["seeds"].sum() == apart * len(runs)
    write_artefact(artefact(name), "mini", runs, tmp_path, expected=len(runs), seeds=3, command="a command")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


def test_a_panel_may_have_a_metric_of_its_own():
    definition = at_scale(artefact("figure_k1"), "mini")
    finals = {"accuracy_change": 18.0, "language_accuracy_change": -3.0}
    runs = [run("adamw", seed, finals, lr=3.162e-3, weight_decay=0.1) for seed in (1, 2, 3)]
    runs.append(run("adamw", 1, None, lr=3.162e-3, weight_decay=0.01))
    table = cell_table(definition, frame(runs, "accuracy_change"), seeds=3)
    means = {(cell.method, cell.setting): cell.mean for cell in table.itertuples()}
    assert means["AdamW, questions", "0.1"] == 18.0 and means["AdamW, next token", "0.1"] == -3.0
    diverged = table[(table["method"] == "AdamW, next token") & (table["setting"] == "0.01")]
    assert diverged["diverged"].tolist() == [1]
