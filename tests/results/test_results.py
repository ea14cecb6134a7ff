"""From records to tables and figures, on runs with chosen values."""

import csv
import itertools
import math
import random
import statistics
import xml.etree.ElementTree
from pathlib import Path

import pandas as pd
import pytest
import yaml
from made_runs import (
    ADAMW,
    CPR,
    EVALUATE_AT,
    FIGURE2,
    GROKKING,
    LRS,
    ROOT,
    SEEDS,
    SETTINGS,
    curve,
    evaluate_at_runs,
    figure2_data,
    grid,
    measured_by,
    noisy,
    out_of_memory,
)
from PIL import Image

from results import Run, write_artefact
from results.cells import best_table, cell_table, readable
from results.layouts import curves
from results.runs import cells, frame, power_of_ten
from results.schema import at_scale
from results.table import markdown, pipe_table

FILES = ["claims.csv", "figure.png", "figure.svg", "table.csv", "table.md", "table.tex"]
PUBLISHED = sorted((ROOT / "results" / "published").glob("*.yaml"))


@pytest.mark.parametrize(
    "written_as", [float, lambda lr: 10 ** (round(2 * math.log10(lr)) / 2)], ids=["3.162e-4", "10 ** -3.5"]
)
def test_every_cell_of_the_paper_s_grid_stands_beside_its_published_number(written_as):
    data = figure2_data(noisy, scale="paper", seeds=(1,))
    table = cell_table(at_scale(FIGURE2, "paper"), data.assign(lr=data["lr"].map(written_as)), seeds=1)
    rows = yaml.safe_load((ROOT / "results" / "published" / "figure2.yaml").read_text())["rows"]

    def place(lr, decay, steps):
        return (
            round(2 * math.log10(lr)),
            None if decay is None else float(decay),
            None if steps is None else float(steps),
        )

    theirs = {place(r["lr"], r.get("weight_decay"), r.get("warm_start_steps")): (r["mean"], r["std"]) for r in rows}
    ours = {}
    for cell in table.itertuples():
        decay = cell.setting if cell.method == "AdamW" else None
        steps = (
            500 * float(cell.setting[:-1]) if cell.method == "AdamCPR Kappa-WS" else None
        )  # multiples of the paper's lr warm-up
        ours[place(cell.lr, decay, steps)] = (cell.mean_paper, cell.std_paper)
    assert len(table) == 91
    assert ours == theirs  # NaN, from a cell without a match, equals nothing
    assert table["difference"].to_list() == pytest.approx((table["mean"] - table["mean_paper"]).to_list())
    best = best_table(FIGURE2, figure2_data(noisy)).set_index("method")["best of paper"]
    assert [text[:5] for text in best] == ["75.40", "76.30", "76.60"]
    assert best["AdamCPR Kappa-WS"].endswith("(lr 1e-3.0, 2x)")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_file_of_published_numbers_is_whole(path):
    published = yaml.safe_load(path.read_text())
    assert published["artefact"] == path.stem
    assert published["source"].startswith("arXiv:2311.09058")
    assert published["task"]
    assert published["metric"].keys() == {"name", "unit", "better"}
    better = ("equal",) if path.stem == "table_i1" else ("higher", "lower")  # sizes have no better direction
    assert published["metric"]["better"] in better
    means = [row["mean"] for row in published["rows"]]
    assert any(isinstance(mean, float) for mean in means)
    assert all(mean is None or isinstance(mean, float) for mean in means)
    keys = [tuple((k, v) for k, v in row.items() if k not in ("mean", "std", "seeds")) for row in published["rows"]]
    assert len(set(keys)) == len(keys)  # no cell twice


def test_a_cell_has_the_mean_and_the_sample_std_of_its_seeds():
    table = cells(figure2_data(noisy), "adamw", "lr", "regularizer.weight_decay").set_index(["row", "column"])
    assert len(table) == len(LRS) * len(SETTINGS["adamw"])
    for lr, decay in itertools.product(LRS, SETTINGS["adamw"]):
        values, cell = [noisy("adamw", lr, decay, seed) for seed in SEEDS], table.loc[(lr, f"{decay:g}")]
        assert (cell["mean"], cell["std"]) == pytest.approx((statistics.mean(values), statistics.stdev(values)))


def test_a_cell_says_which_of_its_seeds_are_missing_or_diverged():
    gone = {(LRS[0], 1), (LRS[2], 2), (LRS[2], 3)}
    runs = grid(
        lambda name, lr, setting, seed: None if setting == "4x" or (setting == "2x" and seed == 3) else 80.0 + seed
    )
    runs = [r for r in runs if (r.config["lr"], r.config["seed"]) not in gone]
    text = readable(FIGURE2, cell_table(FIGURE2, frame(runs, "top1_accuracy"), seeds=3)).set_index(
        ["method", "lr", "setting"]
    )["ours"]
    ws = text["AdamCPR Kappa-WS"].to_dict()
    assert ws["1e-2.5", "1x"] == "82.00 ± 1.00 (3 seeds)"
    assert ws["1e-2.5", "2x"] == "81.50 ± 0.71 (2 seeds, 1 diverged)"
    assert ws["1e-2.5", "4x"] == "- (0 seeds, 3 diverged)"
    assert ws["1e-3.0", "1x"] == "82.50 ± 0.71 (2 seeds, 1 missing)"
    assert ws["1e-3.0", "2x"] == "82.00 (1 seed, 1 diverged, 1 missing)"
    assert ws["1e-2.0", "1x"] == "81.00 (1 seed, 2 missing)"


def test_the_table_of_curves_says_when_each_seed_reached_the_target():
    last = GROKKING.methods[-1]
    runs = [curve(CPR, 2, None), curve(CPR, 1, 40), *(curve(ADAMW[0], seed, None, diverged=True) for seed in SEEDS)]
    runs += [curve(ADAMW[1], 1, 40), curve(ADAMW[1], 2, None, diverged=True)]
    table = curves.table(GROKKING, runs, 3).set_index("method").T
    assert table.loc["final validation accuracy", ADAMW[1].title] == "95.10 (1 diverged)"
    assert table[CPR.title].to_list() == [
        2,
        "5, not within 10 in 1 of 2 seeds",
        "55.15 ± 56.50",
        "1, 1",
        "99.00 ± 0.00",
    ]
    assert table.loc["final validation accuracy", [ADAMW[0].title, last.title]].to_list() == [
        "diverged",
        "missing",
    ]
    lowest = curves.table(measured_by("lower", GROKKING), [curve(CPR, 1, 40)], 1).set_index("method").T
    assert lowest[CPR.title].to_list()[:2] == [1, "1"]  # from the first evaluation on it is at or below the target


def test_markdown_has_aligned_columns_and_escapes_pipes():
    text = markdown(pd.DataFrame({"method": ["a|b", None], "n": [1, 23]}))
    assert text.splitlines() == ["| method | n  |", "|--------|----|", r"| a\|b   | 1  |", "|        | 23 |"]
    assert pipe_table(("method", "n"), [("a|b", "1")]).splitlines() == [
        "| method | n |",
        "| --- | --- |",
        r"| a\|b | 1 |",
    ]


def test_half_decades_print_as_powers_of_ten_and_other_values_as_they_are():
    assert [power_of_ten(value) for value in (3.162e-4, 10**-3.5, 1e-2, 3e-3, 0)] == [
        "1e-3.5",
        "1e-3.5",
        "1e-2.0",
        "0.003",
        "0",
    ]


def test_a_difference_to_the_paper_is_tabulated_only_where_the_data_set_is_the_same():
    for scale in ("mini", "small", "paper"):
        definition = at_scale(FIGURE2, scale)
        table = cell_table(definition, figure2_data(noisy), seeds=3)
        assert table["mean_paper"].notna().all()
        assert ("difference" in table) == ("ours - paper" in readable(definition, table)) == (scale == "paper")


def test_without_any_run_there_is_an_empty_table_and_no_finding(tmp_path):
    write_artefact(FIGURE2, "mini", [], tmp_path, expected=96, seeds=4, command="make reproduce-figure2")
    page = (tmp_path / "table.md").read_text()
    assert "- runs: 0 of 96" in page
    assert page.count("runs missing") == len(FIGURE2.claims)


def grokking_runs() -> list[Run]:
    return [curve(method, seed, 8 * seed) for method in GROKKING.methods for seed in SEEDS]


def damaged_figure2() -> list[Run]:
    """One run is missing, and one diverged."""
    return grid(
        lambda name, lr, setting, seed: (
            None if (lr, setting, seed) == (1e-2, 0.1, 2) else noisy(name, lr, setting, seed)
        )
    )[1:]


MADE = {"figure2": (FIGURE2, damaged_figure2(), 72), "grokking": (GROKKING, grokking_runs(), 18)}
MADE["evaluate_at"] = (EVALUATE_AT, evaluate_at_runs(), 18)
every_artefact = pytest.mark.parametrize("name", MADE)


def written(name: str, folder: Path, order=lambda runs: runs) -> dict[str, bytes]:
    definition, runs, expected = MADE[name]
    summary = write_artefact(
        definition, "mini", order(runs), folder, expected=expected, seeds=3, command=f"make reproduce-{name}"
    )
    assert sorted(path.name for path in summary.files) == FILES
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in MADE}
    for name, folder in made.items():
        written(name, folder)
    return made


@every_artefact
def test_the_same_runs_in_another_order_give_the_same_bytes(name, folders, tmp_path):
    def shuffled(runs):
        return random.Random(0).sample(runs, len(runs))

    other = written(name, tmp_path / "not" / "there" / "yet", shuffled)
    assert sorted(other) == FILES  # and no temporary file
    assert other == {path.name: path.read_bytes() for path in folders[name].iterdir()}


@every_artefact
def test_writing_the_same_again_touches_no_file(name, folders):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folders[name].iterdir()}

    before = state()
    written(name, folders[name])
    assert state() == before


def test_a_new_run_replaces_what_it_changes(folders, tmp_path):
    definition, runs, _ = MADE["grokking"]
    written("grokking", tmp_path)
    more = [*runs, curve(CPR, 4, 8)]
    write_artefact(definition, "mini", more, tmp_path, expected=18, seeds=3, command="make reproduce-grokking")
    changed = {
        path.name for path in tmp_path.iterdir() if path.read_bytes() != (folders["grokking"] / path.name).read_bytes()
    }
    assert changed == set(FILES)  # claims.csv too: with an extra run there is no finding


def test_the_files_say_what_is_missing_and_give_no_finding_then(folders):
    page = (folders["figure2"] / "table.md").read_text()
    assert "- runs: 71 of 72 (1 diverged)\n" in page
    assert "- seeds: 1, 2, 3\n" in page
    assert "- command: `make reproduce-figure2`\n" in page
    assert " 1 missing)" in page
    assert " 1 diverged)" in page
    rows = list(csv.DictReader((folders["figure2"] / "claims.csv").open()))
    assert [(row["claim"], row["outcome"]) for row in rows] == [(claim.id, "runs missing") for claim in FIGURE2.claims]


def test_a_run_that_ran_out_of_memory_is_missing_and_named_and_no_diverged_one(tmp_path):
    runs = grid(noisy)
    lost = out_of_memory(runs[0])
    shown = write_artefact(
        FIGURE2, "mini", [lost, *runs[1:]], tmp_path, expected=len(runs), seeds=3, command="make reproduce-figure2"
    )
    page = (tmp_path / "table.md").read_text()
    assert f"- runs: {len(runs) - 1} of {len(runs)}\n" in page and "diverged" not in page
    said = f"Failed without a result, and counted as missing: {lost.record['run_id']} (out of memory at step 3, in 3 attempts)."
    assert said in page and said in shown.text
    assert {row["outcome"] for row in csv.DictReader((tmp_path / "claims.csv").open())} == {"runs missing"}


@every_artefact
def test_the_figures_are_images(name, folders):
    png = folders[name] / "figure.png"
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert min(image.size) > 500
        assert image.convert("L").getextrema() == (0, 255)  # black on white
    root = xml.etree.ElementTree.parse(folders[name] / "figure.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20


def test_the_curves_are_named_once_a_method_over_epochs():
    runs = grokking_runs()
    figure = curves.figure(GROKKING, curves.table(GROKKING, runs, 3), runs, "data", "a footer")
    (axes,) = figure.axes
    labels = {text.get_text().replace("\n", " "): text.get_color() for text in axes.texts if text.arrow_patch}
    assert list(labels) == [method.title for method in GROKKING.methods] and not figure.legends
    lines = [line for line in axes.lines if len(line.get_xdata()) == 10]
    assert len(lines) == 6 * (3 + 2)  # of each method three seeds, and the medians of two metrics
    assert all(list(line.get_xdata()) == list(range(1, 11)) for line in lines)
    assert {line.get_color() for line in lines} == set(labels.values())
