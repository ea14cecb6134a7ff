"""Scores over training of every method's best cell: which runs, which metrics, what the page says."""

import dataclasses

import pandas as pd
import pytest
from made_runs import artefact, run

from results import write_artefact
from results.artefact import at_scale
from results.progress import progress, progress_table

TABLE_J1 = artefact("table_j1")
MINI = at_scale(TABLE_J1, "mini")


def fold(seed: int, decay: float, last: float):
    """Evaluated at steps 50 and 100, four points apart."""
    evaluated = [
        {"step": step, "dice": dice, "dice_grey": dice - 1, "dice_white": dice + 1} for step, dice in ((50, last - 4), (100, last))
    ]
    logged = {"step": 100, "loss": 0.1, "lr": 1e-2}
    made = run("sgd", seed, {"dice": last}, lr=1e-2, metrics=(logged, *evaluated), weight_decay=decay)
    made.config["task"]["data"]["name"] = "MNI152"
    return made


RUNS = [fold(seed, decay, last + seed) for decay, last in ((1e-3, 80.0), (1e-2, 90.0)) for seed in (1, 2, 3)]


def test_the_best_cell_s_runs_and_the_metric_with_its_parts():
    rows = progress(MINI, RUNS)
    assert set(rows["method"]) == {"SGD"} and set(rows["setting"]) == {"0.01"}
    assert list(rows.columns) == ["method", "setting", "seed", "step", "dice", "dice_grey", "dice_white"]
    assert rows[rows["seed"] == 2][["step", "dice"]].to_numpy().tolist() == [[50, 88.0], [100, 92.0]]
    assert progress({key: value for key, value in MINI.items() if key != "progress"}, RUNS).empty
    assert progress(MINI, []).empty


def test_the_last_scores_over_folds_and_what_they_still_gained():
    (row,) = progress_table(MINI, progress(MINI, RUNS)).to_dict("records")
    assert row["dice"] == "92.00 ± 1.00" and row["dice_white"] == "93.00 ± 1.00"
    assert row["since the evaluation before"] == "+4.00"
    once = [made.__class__(made.config, made.record, made.metrics[2:]) for made in RUNS]
    assert progress_table(MINI, progress(MINI, once))["since the evaluation before"].tolist() == ["-"]


def test_the_page_has_the_curves(tmp_path):
    write_artefact(TABLE_J1, "mini", RUNS, tmp_path, expected=len(RUNS), seeds=3, command="a command")
    assert "![progress](progress.png)" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "progress.png").stat().st_size > 10_000
    assert pd.read_csv(tmp_path / "progress.csv")["dice"].max() == pytest.approx(93)


def test_the_page_shows_the_first_fold_s_pictures_of_the_best_cell(tmp_path):
    folders = [tmp_path / str(number) for number, _ in enumerate(RUNS)]
    for folder, made in zip(folders, RUNS, strict=True):
        (folder / "overlays").mkdir(parents=True)
        (folder / "overlays" / "block_01.png").write_bytes(repr(made.config["regularizer"]).encode() + bytes([made.config["seed"]]))
    drawn = [dataclasses.replace(made, folder=folder) for made, folder in zip(RUNS, folders, strict=True)]
    out = tmp_path / "out"
    write_artefact(TABLE_J1, "mini", drawn, out, expected=len(RUNS), seeds=3, command="a command")
    assert [path.name for path in (out / "overlays").iterdir()] == ["sgd_block_01.png"]
    first = folders[3] / "overlays" / "block_01.png"  # weight decay 1e-2, seed 1
    assert (out / "overlays" / "sgd_block_01.png").read_bytes() == first.read_bytes()
    assert "![sgd_block_01.png](overlays/sgd_block_01.png)" in (out / "table.md").read_text()
