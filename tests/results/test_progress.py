"""Scores of every method's best cell over training, and of every fold at the end."""

import base64
import dataclasses
import io
import re

import pandas as pd
import pytest
from made_runs import artefact, changed, run
from PIL import Image

from results import write_artefact
from results.folds import fold_of, folds
from results.progress import MOST_PICTURES, progress, progress_table
from results.report import section
from results.report.page import render
from results.schema import at_scale
from tasks.segmentation.task import fold_of as fold_of_task

TABLE_J1 = artefact("table_j1")
MINI = at_scale(TABLE_J1, "mini")


def fold(seed: int, decay: float, last: float):
    """Return a fold that is evaluated at steps 50 and 100, four points apart."""
    evaluated = [
        {"step": step, "dice": dice, "dice_grey": dice - 1, "dice_white": dice + 1}
        for step, dice in ((50, last - 4), (100, last))
    ]
    logged = {"step": 100, "loss": 0.1, "lr": 1e-2}
    made = run(
        "sgd", seed, {"dice": last, "dice_grey": last - 1}, lr=1e-2, metrics=(logged, *evaluated), weight_decay=decay
    )
    made.config["task"]["data"]["name"] = "MNI152"
    made.config["task"] |= {"fold": None, "folds": 7}
    return made


RUNS = [fold(seed, decay, last + seed) for decay, last in ((1e-3, 80.0), (1e-2, 90.0)) for seed in (1, 2, 3)]


def test_the_best_cell_s_runs_and_the_metric_with_its_parts():
    rows = progress(MINI, RUNS)
    assert set(rows["method"]) == {"SGD"} and set(rows["setting"]) == {"0.01"}
    assert list(rows.columns) == ["method", "setting", "seed", "step", "dice", "dice_grey", "dice_white"]
    assert rows[rows["seed"] == 2][["step", "dice"]].to_numpy().tolist() == [[50, 88.0], [100, 92.0]]
    assert progress(changed(MINI, progress=None), RUNS).empty
    assert progress(MINI, []).empty


def test_the_last_scores_over_folds_and_what_they_still_gained():
    (row,) = progress_table(MINI, progress(MINI, RUNS)).to_dict("records")
    assert row["dice"] == "92.00 ± 1.00" and row["dice_white"] == "93.00 ± 1.00"
    assert row["since the evaluation before"] == "+4.00"
    once = [made.__class__(made.config, made.record, made.metrics[2:]) for made in RUNS]
    assert progress_table(MINI, progress(MINI, once))["since the evaluation before"].tolist() == ["-"]


def test_every_run_s_final_scores_by_fold_and_label_of_all_cells():
    table = folds(MINI, [*RUNS, run_that_diverged()])
    assert list(table.columns) == ["method", "lr", "setting", "seed", "fold", "label", "dice"]
    assert len(table) == 2 * len(RUNS) + 1
    of_run = table[(table["setting"] == "0.001") & (table["seed"] == 2)]
    assert of_run[["fold", "label", "dice"]].to_numpy().tolist() == [[1, "mean", 82.0], [1, "grey", 81.0]]
    assert table[table["setting"] == "0.1"][["fold", "label"]].to_numpy().tolist() == [[3, "mean"]]
    assert table["dice"].isna().sum() == 1


def run_that_diverged():
    made = run("sgd", 4, None, lr=1e-2, weight_decay=1e-1)
    made.config["task"] |= {"fold": None, "folds": 7}
    made.config["task"]["data"]["name"] = "MNI152"
    return made


@pytest.mark.parametrize(("fold", "seed"), [(None, 1), (None, 7), (None, 9), (3, 5)])
def test_a_table_s_folds_are_the_task_s(fold, seed):
    assert fold_of({"task.fold": fold, "task.folds": 7, "seed": seed}) == fold_of_task(fold, 7, seed)


def test_at_paper_scale_the_curve_is_of_validation_patches_and_the_last_scores_of_whole_cases():
    online = [
        {"step": step, "online_dice": dice, "online_dice_atrium": dice} for step, dice in ((50, 70.0), (100, 75.0))
    ]
    online[-1] |= {"dice": 92.0, "dice_atrium": 92.0}
    made = run("sgd", 1, {"dice": 92.0}, lr=1e-2, metrics=tuple(online), weight_decay=1e-3)
    made.config["task"]["data"]["name"] = "Heart"
    paper = at_scale(TABLE_J1, "paper")
    rows = progress(paper, [made])
    assert rows["online_dice"].tolist() == [70.0, 75.0] and rows["dice"].dropna().tolist() == [92.0]
    (row,) = progress_table(paper, rows).to_dict("records")
    assert row["dice_atrium"].startswith("92.00") and row["since the evaluation before"] == "+5.00"


def test_the_page_has_the_curves(tmp_path):
    write_artefact(TABLE_J1, "mini", RUNS, tmp_path, expected=len(RUNS), seeds=3, command="a command")
    assert "![progress](progress.png)" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "progress.png").stat().st_size > 10_000
    assert pd.read_csv(tmp_path / "progress.csv")["dice"].max() == pytest.approx(93)
    assert "[folds.csv](folds.csv)" in (tmp_path / "table.md").read_text()
    assert len(pd.read_csv(tmp_path / "folds.csv")) == 2 * len(RUNS)


@pytest.fixture
def drawn(tmp_path):
    """Return the runs with folders of pictures as large as a run's."""
    made = []
    for number, one in enumerate(RUNS):
        folder = tmp_path / "runs" / str(number) / "overlays"
        folder.mkdir(parents=True)
        for block in range(6):
            Image.new("RGB", (816, 288), (40 * number, 40 * block, 0)).save(folder / f"block_{block}.png")
        made.append(dataclasses.replace(one, folder=folder.parent))
    return made


def test_the_report_has_curves_and_small_pictures_from_records_and_from_committed_files_alike(drawn, tmp_path):
    out = tmp_path / "results" / "table_j1"
    from_records = section(TABLE_J1, "mini", drawn, out, expected=len(drawn), seeds=3)
    write_artefact(TABLE_J1, "mini", drawn, out, expected=len(drawn), seeds=3, command="a command")
    committed = section(TABLE_J1, "mini", [], out, expected=len(drawn), seeds=3)
    assert (from_records.state, committed.state) == ("from records", "from the committed files")
    assert "overlays/sgd_block_0.png" in committed.files and "folds.csv" in committed.files
    assert from_records.pictures == committed.pictures and len(committed.pictures) == MOST_PICTURES
    for made in (from_records, committed):
        assert "Dice over training" in made.tables
        curves = made.panels[-1].figure.data
        assert made.panels[-1].title == "Dice over training, best cells"
        assert [list(line.y) for line in curves] == [
            [87, 91],
            [88, 92],
            [89, 93],
            [88, 92],
        ]  # three folds and their mean
        html = render([made], tmp_path)
        found = [base64.b64decode(content) for content in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)]
        assert [Image.open(io.BytesIO(content)).size for content in found] == [(453, 160)] * MOST_PICTURES
        assert sum(map(len, found)) < 40_000 * MOST_PICTURES


def test_an_artefact_without_progress_has_none_of_it(tmp_path):
    without = changed(TABLE_J1, progress=None, folds=None)
    made = section(without, "mini", RUNS, tmp_path, expected=len(RUNS), seeds=3)
    assert (
        not made.pictures
        and "Dice over training" not in made.tables
        and "<img" not in render([made], tmp_path).partition("<script>")[0]
    )


def test_the_page_shows_the_first_fold_s_pictures_of_the_best_cell(tmp_path):
    folders = [tmp_path / str(number) for number, _ in enumerate(RUNS)]
    for folder, made in zip(folders, RUNS, strict=True):
        (folder / "overlays").mkdir(parents=True)
        (folder / "overlays" / "block_01.png").write_bytes(
            repr(made.config["regularizer"]).encode() + bytes([made.config["seed"]])
        )
    drawn = [dataclasses.replace(made, folder=folder) for made, folder in zip(RUNS, folders, strict=True)]
    out = tmp_path / "out"
    write_artefact(TABLE_J1, "mini", drawn, out, expected=len(RUNS), seeds=3, command="a command")
    assert [path.name for path in (out / "overlays").iterdir()] == ["sgd_block_01.png"]
    first = folders[3] / "overlays" / "block_01.png"  # weight decay 1e-2, seed 1
    assert (out / "overlays" / "sgd_block_01.png").read_bytes() == first.read_bytes()
    assert "![sgd_block_01.png](overlays/sgd_block_01.png)" in (out / "table.md").read_text()
