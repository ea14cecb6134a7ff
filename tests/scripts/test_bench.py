"""The command of `make bench`, on tiny models."""

import csv
import json
import subprocess

import pytest
import torch
from commands import ROOT, call, call_forked, is_one_line
from torch import nn

from cpr import AdamCPR, measures, snapshot
from results.step_times import AFTER, IN_TURN
from scripts.bench import measure
from scripts.bench.measure import Bench, require_pull, step_in_turn
from scripts.bench.memory import extra_peak_bytes
from scripts.bench.methods import MULTIPLIER, REFERENCE, methods, methods_in_turn
from scripts.bench.options import options_of
from scripts.bench.shapes import SHAPES
from scripts.bench.step_times import COMMAND, main
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
    in_turn = {method.label for method in methods_in_turn(CPU)}
    known = {
        "AdamW, fused",
        "AdamW, default",
        "AdamW, foreach",
        AFTER,
        "AdamCPR, eager",
        "AdaDecay",
        "AWD",
        "AMOS",
        "pytorch-cpr",
    }
    assert known <= labels
    for table, parts in (("table_i2", ["optimizer_step", "training_step"]), ("table_i3", ["training_step"])):
        assert {path.name for path in (results / table).iterdir()} == FILES
        found = rows(results / table / "table.csv")
        expected = {(part, label) for part in parts for label in labels}
        expected |= {("gradients_in_turn", label) for label in in_turn} if table == "table_i2" else set()
        assert {(row["part"], row["method"]) for row in found} == expected
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
    entry = json.loads((results / "table_i2" / "rounds.json").read_text())["shapes"]["tiny"]["optimizer_step"][
        "methods"
    ]
    for row in rows(results / "table_i2" / "table.csv"):
        if row["method"] == "AdamW, fused" and row["part"] != "gradients_in_turn":
            assert [float(row[name]) for name in ("ratio", "ratio_q1", "ratio_q3")] == [1, 1, 1]
        elif row["part"] == "optimizer_step":
            pairs = zip(entry[row["method"]]["seconds"], entry["AdamW, fused"]["seconds"], strict=True)
            assert float(row["ratio"]) == pytest.approx(sum(a / b for a, b in pairs) / 2)  # the median of two


def test_gradients_in_turn_are_compared_with_all_gradients_of_the_same_method_and_round(results):
    entry = json.loads((results / "table_i2" / "rounds.json").read_text())["shapes"]["tiny"]["gradients_in_turn"][
        "methods"
    ]
    adamcpr = next(label for label, method in entry.items() if method["row"] == "adamcpr")
    assert list(entry) == [REFERENCE, REFERENCE + IN_TURN, adamcpr, adamcpr + IN_TURN]
    found = {
        row["method"]: row for row in rows(results / "table_i2" / "table.csv") if row["part"] == "gradients_in_turn"
    }
    for label in (REFERENCE, adamcpr):
        pairs = zip(entry[label + IN_TURN]["seconds"], entry[label]["seconds"], strict=True)
        assert float(found[label]["ratio"]) == 1
        assert float(found[label + IN_TURN]["ratio"]) == pytest.approx(
            sum(a / b for a, b in pairs) / 2
        )  # the median of two
    assert "gradients_in_turn" not in json.loads((results / "table_i3" / "rounds.json").read_text())["shapes"]["tiny"]


def test_another_parameter_has_no_gradient_at_every_step_and_all_have_one_in_between():
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    seen = []

    class Watch(torch.optim.SGD):
        def step(self):
            seen.append([p.grad is None for p in model.parameters()])

    for p in model.parameters():
        p.grad = torch.ones_like(p)
    step = step_in_turn(model, Watch(model.parameters()))
    for _ in range(4):
        step()
        assert all(p.grad is not None for p in model.parameters())
    assert seen == [[True, False, False], [False, True, False], [False, False, True], [True, False, False]]


@pytest.mark.parametrize("known", [methods, methods_in_turn])
def test_every_bound_pulls_in_two_hundred_steps_of_every_method_and_no_matrix_changes_by_a_hundredth(
    known, monkeypatch
):
    torch.manual_seed(0)  # the constant gradients move such small matrices at random, by up to a hundredth and more
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Linear(64, 64), nn.Linear(64, 10)).requires_grad_(True)
    before = {name: measures.value_of("l2", p.detach()).item() for name, p in model.named_parameters() if p.ndim > 1}
    bounds = {}
    monkeypatch.setattr(measure, "bandwidth", lambda device: {})
    monkeypatch.setattr(
        measure, "require_pull", lambda label, optimizer: bounds.update({label: snapshot_of(optimizer, label)})
    )
    Bench(model, CPU).optimizer_step(known(CPU), rounds=200)
    assert len([found for found in bounds.values() if found]) == (4 if known is methods else 2)
    for found in filter(None, bounds.values()):
        assert len(found) == 3
        assert all(bound.is_set and MULTIPLIER <= bound.lam < 1e-4 for bound in found.values())
    for name, p in model.named_parameters():
        if p.ndim > 1:
            assert measures.value_of("l2", p.detach()).item() == pytest.approx(before[name], rel=0.01)


def snapshot_of(optimizer, label):
    require_pull(label, optimizer)
    return snapshot(optimizer) if "CPR" in label else {}


def test_times_of_steps_without_a_pull_are_refused_with_the_matrix_s_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = AdamCPR(model, lr=1e-6, kappa_init_method="dependent", kappa_init_param=1.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"AdamCPR, cpu: 2 of 2 matrices were not pulled .* such as 0\.weight with"):
        require_pull("AdamCPR, cpu", optimizer)
    require_pull("AdamW", torch.optim.AdamW(model.parameters()))


def test_the_step_after_moves_no_more_bytes_than_adam_s_and_stands_for_no_row_of_the_paper():
    found = {method.label: method for method in methods(CPU)}
    assert (found[AFTER].moved, found[AFTER].row) == (28, None)
    model = nn.Linear(4, 4)
    optimizer = found[AFTER].make(
        [{"params": [model.weight], "regularize": True}, {"params": [model.bias], "regularize": False}]
    )
    fastest = next(method for method in found.values() if method.row == "adamcpr")
    assert optimizer.defaults["evaluate_at"] == "after"
    assert fastest.label == f"AdamCPR, {optimizer.defaults['kernel']}"


def test_the_paper_s_numbers_stand_in_its_rows_and_columns(results):
    lines = [
        line.split("|")[1:-1]
        for line in (results / "table_i2" / "table.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    table = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines if len(cells) == 9}
    assert table["method"][1::2] == ["GPT2s paper", "GPT2m paper", "GPT2l paper", "GPT2xl paper"]
    assert table["AdamCPR"] == [
        "-",
        "0.073 (1.058x)",
        "-",
        "0.162 (1.066x)",
        "-",
        "0.289 (1.059x)",
        "-",
        "0.360 (1.056x)",
    ]


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
    is_one_line(done, "colour is unknown", "rounds, shapes")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("rounds", ("rounds", "unknown")),
        ("rounds=0", ("rounds=0", ">= 1")),
        ("shapes=gpt5", ("gpt5", "did you mean gpt2")),
        ("device=tpu", ("device=tpu", "cuda")),
        ("threads=100000", ("threads=100000", "<=")),
        ("memory_gb=much", ("memory_gb=much", "> 0")),
    ],
)
def test_a_wrong_option_is_said_with_what_is_right(argument, words):
    with pytest.raises(UserError) as error:
        options_of(COMMAND.parse([argument]).options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("gpt2s", 124), ("gpt2m", 354), ("gpt2l", 773), ("gpt2xl", 1187), ("deits", 22), ("resnet50", 26), ("vitb32", 88)],
)
def test_the_models_have_the_paper_s_parameter_counts(name, millions):
    assert round(sum(p.numel() for p in SHAPES[name].on_paper().parameters()) / 1e6) == millions


def test_extra_peak_memory_is_what_a_call_holds_at_most():
    def take(megabytes):
        return lambda: torch.ones(megabytes * 250_000).sum()

    take(100)()  # memory that the allocator keeps must not hide the next peak
    # glibc takes blocks above 32 MiB from the system. Smaller ones may fit into what earlier tests left free.
    assert extra_peak_bytes(take(40), CPU) == pytest.approx(40e6, abs=1e6)
    assert extra_peak_bytes(lambda: None, CPU) <= 1e6
