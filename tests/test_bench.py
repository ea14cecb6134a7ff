"""`make bench`'s command, on models that are made in a moment."""

import csv
import json
import subprocess

import pytest
import torch
from commands import ROOT, call, call_forked, is_one_line

from scripts.bench.memory import extra_peak_bytes
from scripts.bench.methods import methods
from scripts.bench.options import parse
from scripts.bench.shapes import SHAPES
from scripts.bench.step_times import main
from tasks.engine.errors import UserError

CPU = torch.device("cpu")
SCRIPT = "bench/step_times.py"
FILES = {"claims.csv", "figure.png", "figure.svg", "rounds.json", "table.csv", "table.md", "table.tex"}
LOOK = ("rounds=2", "context=8", "batch=2")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    done = call(SCRIPT, "shapes=tiny,gpt2xl", *LOOK, "memory_gb=1", f"results_dir={folder}")
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder / "mini"


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_both_tables_hold_every_method_with_its_rounds(results):
    labels = {method.label for method in methods(CPU)}
    assert {"AdamW, fused", "AdamW, default", "AdamW, foreach", "AdamCPR, eager", "AdaDecay", "AWD", "AMOS", "pytorch-cpr"} <= labels
    for table, parts in (("table_i2", ["optimizer_step", "training_step"]), ("table_i3", ["training_step"])):
        assert {path.name for path in (results / table).iterdir()} == FILES
        found = rows(results / table / "table.csv")
        assert {(row["part"], row["method"]) for row in found} == {(part, label) for part in parts for label in labels}
        assert {row["rounds"] for row in found} == {"2"}
        entry = json.loads((results / table / "rounds.json").read_text())["shapes"]["tiny"]
        assert [entry[part].get("batch") for part in parts] == ([None, 1] if table == "table_i2" else [2])
        text = (results / table / "table.md").read_text()
        assert "make bench DEVICE=cuda" in text
        assert all(label in text for label in labels)


def test_the_bandwidth_is_measured_in_every_round(results):
    for table, parts in (("table_i2", ["optimizer_step", "training_step"]), ("table_i3", ["training_step"])):
        entry = json.loads((results / table / "rounds.json").read_text())["shapes"]["tiny"]
        for part in parts:
            rates = entry[part]["bandwidth"]
            assert {name: len(rounds) for name, rounds in rates.items()} == {"copy": 2, "triad": 2, "update": 2}
            assert all(1e8 < rate < 1e13 for rounds in rates.values() for rate in rounds)
    assert "before the rounds:" not in (results / "table_i2" / "table.md").read_text()


def test_the_reference_s_ratio_is_one_and_the_others_are_of_the_same_round(results):
    entry = json.loads((results / "table_i2" / "rounds.json").read_text())["shapes"]["tiny"]["optimizer_step"]["methods"]
    for row in rows(results / "table_i2" / "table.csv"):
        if row["method"] == "AdamW, fused":
            assert [float(row[name]) for name in ("ratio", "ratio_q1", "ratio_q3")] == [1, 1, 1]
        elif row["part"] == "optimizer_step":
            pairs = zip(entry[row["method"]]["seconds"], entry["AdamW, fused"]["seconds"], strict=True)
            assert float(row["ratio"]) == pytest.approx(sum(a / b for a, b in pairs) / 2)  # the median of two


def test_the_paper_s_numbers_stand_in_its_rows_and_columns(results):
    lines = [line.split("|")[1:-1] for line in (results / "table_i2" / "table.md").read_text().splitlines() if line.startswith("| ")]
    table = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines if len(cells) == 9}
    assert table["method"][1::2] == ["GPT2s paper", "GPT2m paper", "GPT2l paper", "GPT2xl paper"]
    assert table["AdamCPR"] == ["-", "0.073 (1.058x)", "-", "0.162 (1.066x)", "-", "0.289 (1.059x)", "-", "0.360 (1.056x)"]


def test_a_later_call_keeps_the_other_shapes_and_rebuilding_changes_no_byte(results):
    record = results / "table_i3" / "rounds.json"
    shapes = json.loads(record.read_text())
    shapes["shapes"]["gpt2s"] = shapes["shapes"]["tiny"]
    record.write_text(json.dumps(shapes, indent=1) + "\n")
    main(["shapes=tiny", "tables=table_i3", *LOOK, f"results_dir={results.parent}"])
    assert {row["shape"] for row in rows(results / "table_i3" / "table.csv")} == {"tiny", "gpt2s"}
    before = {path: path.read_bytes() for path in (results / "table_i3").iterdir()}
    main(["tables=table_i3", "rebuild=true", f"results_dir={results.parent}"])
    assert {path: path.read_bytes() for path in (results / "table_i3").iterdir()} == before


def test_a_shape_that_does_not_fit_is_skipped_with_a_line(results):
    reason = "needs 19.0 GB, 1.0 GB may be used"
    assert f"gpt2xl, optimizer step: every method skipped: {reason}" in (results.parent / "stderr").read_text()
    text = (results / "table_i2" / "table.md").read_text()
    assert "1,187,094,400 parameters" in text
    assert f"- skipped: every method, {reason}" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("DEVICE=cuda", "ROUNDS=3"), ["step_times.py rounds=3 device=cuda", "loading.py device=cuda"]),
        (("TABLES=table_i2",), ["step_times.py tables=table_i2"]),
    ],
)
def test_make_bench_measures_the_loader_too_but_not_with_one_table(arguments, expected):
    done = subprocess.run(["make", "-n", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.partition("scripts/bench/")[2] for line in done.stdout.splitlines() if "scripts/bench/" in line]
    assert [" ".join(line.split()) for line in lines] == expected


def test_an_unknown_option_is_one_line_and_exit_code_2(tmp_path):
    done = call_forked(SCRIPT, "colour=red", f"results_dir={tmp_path}")
    assert done.returncode == 2
    is_one_line(done, "colour=red", "rounds=")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("rounds", ("rounds", "unknown")),
        ("rounds=0", ("rounds=0", ">= 1")),
        ("shapes=gpt5", ("gpt5", "gpt2xl")),
        ("device=tpu", ("device=tpu", "cuda")),
        ("threads=100000", ("threads=100000", "<=")),
        ("memory_gb=much", ("memory_gb=much", "> 0")),
    ],
)
def test_a_wrong_option_is_said_with_what_is_right(argument, words):
    with pytest.raises(UserError) as error:
        parse([argument])
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(("name", "millions"), [("gpt2s", 124), ("gpt2m", 354), ("gpt2l", 773), ("gpt2xl", 1187)])
def test_the_models_have_the_paper_s_parameter_counts(name, millions):
    assert round(sum(p.numel() for p in SHAPES[name].on_paper().parameters()) / 1e6) == millions


def test_extra_peak_memory_is_what_a_call_holds_at_most():
    def take(megabytes):
        return lambda: torch.ones(megabytes * 250_000).sum()

    take(100)()  # what the allocator keeps of this must not hide the next
    assert extra_peak_bytes(take(20), CPU) == pytest.approx(20e6, abs=1e6)
    assert extra_peak_bytes(lambda: None, CPU) <= 1e6
