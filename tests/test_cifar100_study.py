"""Figures C.1 and E.1 to E.8: a run of the paper's grid for each published cell, and claims over several panels as over one method."""

import itertools
import random

import pytest
import yaml
from made_runs import ROOT, artefact, run

from results import Run
from results.artefact import at_scale, write_artefact
from results.claims import judge
from results.published import published_cells
from results.runs import frame
from results.table import cell_table
from scripts.plan import expand, load_artefact
from tasks.engine.records import identity

NAMES = ("figure_c1", "figure_e1", "figure_e2", "figure_e3", "figure_e4", "figure_e6", "figure_e7", "figure_e8")
MOST_MINI_RUNS = 118  # of 25 s on one of two cores: under 25 minutes, and most artefacts share runs


def planned(name: str, scale: str) -> list[Run]:
    """A run with an accuracy for every configuration of the artefact's grids."""
    runs, options = [], {"scale": scale} | ({"seeds": "1"} if scale == "paper" else {})
    for number, (run_id, cfg) in enumerate(expand(load_artefact(name), options, {}).items()):
        made = run("a", 1, {"top1_accuracy": random.Random(number).uniform(60, 70)})
        runs.append(Run(identity(cfg), made.record | {"run_id": run_id}))
    return runs


@pytest.mark.parametrize("name", NAMES)
def test_every_published_cell_stands_beside_a_run_of_the_paper_s_grid(name):
    definition = at_scale(artefact(name), "paper")
    table = cell_table(definition, frame(planned(name, "paper"), "top1_accuracy"), seeds=1)
    rows = yaml.safe_load((ROOT / "results" / "published" / f"{name}.yaml").read_text())["rows"]
    assert table["mean_paper"].notna().sum() == len(rows)
    assert (table["seeds"] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_mini_scale_fills_every_panel_in_time_and_is_written(name, tmp_path):
    runs = planned(name, "mini")
    assert len(runs) <= MOST_MINI_RUNS
    definition = artefact(name)
    table = cell_table(at_scale(definition, "mini"), frame(runs, "top1_accuracy"), seeds=3)
    assert set(table["method"]) == {panel["title"] for panel in definition["panels"]}
    assert table["seeds"].sum() == len(runs)  # each run is in one cell
    write_artefact(definition, "mini", runs, tmp_path, expected=len(runs), seeds=3, command="a command")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", NAMES)
def test_no_published_row_belongs_to_two_panels(name):
    definition = at_scale(artefact(name), "paper")
    rows = yaml.safe_load((ROOT / "results" / "published" / f"{name}.yaml").read_text())["rows"]
    assert sum(len(published_cells(definition, panel)) for panel in definition["panels"]) == len(rows)


def schedules(value) -> list[Run]:
    """Figure E.4's runs of WS 1x and of four schedules, with the accuracy value(name, final factor, lr, seed)."""
    runs = []
    for lr, seed in itertools.product((1e-3, 3.162e-3, 1e-2), (1, 2, 3)):
        runs.append(run("adamcpr_ws", seed, {"top1_accuracy": value("ws", 0, lr, seed)}, lr=lr, warm_start="1x"))
        for factor in (0.1, 0.01, 10, 100):
            final = {"top1_accuracy": value("schedule", factor, lr, seed)}
            runs.append(run("adamw_schedule", seed, final, lr=lr, final_factor=factor, weight_decay=0.1))
    return runs


def verdict_on_schedules(value):
    (verdict,) = judge(at_scale(artefact("figure_e4"), "mini"), "mini", schedules(value), complete=True)
    return verdict


def test_panels_of_one_side_are_one_method_with_all_their_columns():
    """The best schedule, x10, is held against WS; the three others do not help WS, nor hurt it."""
    base = {0.1: 70.0, 0.01: 60.0, 10: 75.0, 100: 50.0}
    noise = {(lr, seed): random.Random(f"{lr} {seed}").gauss(0, 0.3) for lr in (1e-3, 3.162e-3, 1e-2) for seed in (1, 2, 3)}
    better = verdict_on_schedules(lambda name, factor, lr, seed: (76.0 if name == "ws" else base[factor]) + noise[lr, seed])
    assert better.verdict == "holds" and "+1.00 over 9 pairs" in better.ours
    worse = verdict_on_schedules(lambda name, factor, lr, seed: (74.0 if name == "ws" else base[factor]) + noise[lr, seed])
    assert worse.verdict == "does not hold" and "-1.00 over 9 pairs" in worse.ours


def adaptive(gain: float) -> str:
    """The verdict on E.1's claim that adaptive bounds gain nothing, where they gain `gain` points."""
    runs = []
    for lr, seed, mode in itertools.product((1e-3, 3.162e-3, 1e-2), (1, 2, 3), (False, "transition")):
        accuracy = 70 + random.Random(f"{lr} {seed}").gauss(0, 1) + (gain if mode else 0)
        runs.append(run("adamcpr_ws", seed, {"top1_accuracy": accuracy}, lr=lr, adaptive=mode, warm_start="1x"))
        runs.append(run("adamcpr_k", seed, {"top1_accuracy": accuracy - 5}, lr=lr, adaptive=mode, kappa_init_param=0.01))
        runs.append(run("adamcpr_ki0", seed, {"top1_accuracy": accuracy - 3}, lr=lr, adaptive=mode, kappa_init_param=4))
    verdicts = {v.claim: v.verdict for v in judge(at_scale(artefact("figure_e1"), "mini"), "mini", runs, complete=True)}
    assert verdicts["cifar-ws-k"] == "holds"
    return verdicts["cifar-adaptive"]


def test_two_methods_are_the_same_within_a_margin_or_beyond_it():
    assert adaptive(0.3) == "holds"
    assert adaptive(2.0) == adaptive(-2.0) == "does not hold"
