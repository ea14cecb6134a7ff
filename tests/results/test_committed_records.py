"""Tables and figures from committed records are those from the runs; spoilt and disagreeing records are caught."""

import gzip
import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import metrics_of
from made_runs import ROOT, artefact

from results import Run, write_artefact
from results.committed import DamagedRecords, path_of, read_records, write_records
from results.layouts import LAYOUTS
from results.regime import measured
from results.schema import at_scale
from results.thinning import MOST_LOSSES, MOST_SIZES, thin_dynamics, thin_metrics
from scripts.bench.made_records import MATRICES, write_run
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from tasks.engine.records import read_record

# An artefact of every layout, and its scale.
EXAMPLES = {
    "heatmap": ("figure2", "mini"),
    "curves": ("grokking", "mini"),
    "budget": ("figure1", "mini"),
    "pairs": ("evaluate_at", "mini"),
    "dynamics": ("figure_g1", "mini"),
    "dose": ("regime", "small"),
    "triggers": ("ip_trigger", "small"),
    "transfer": ("transfer", "mini"),
}


@cache
def configs(name: str, scale: str):
    return expand(load_artefact(name), {"scale": scale}, {})


def with_long_logs(run: Run) -> Run:
    """Return the run with 200 rows of dynamics from step 0, whose κ are set one by one, and 120 training losses."""
    draw = random.Random(run.run_id)
    rows: list[dict] = [{"matrices": MATRICES}]
    for number in range(200):
        row = {"step": 5 * number, "R": [draw.uniform(1, 2) * (1 + number) for _ in MATRICES]}
        if run.regularizer != "adamw":
            there = [number >= 7 + 3 * matrix for matrix in range(len(MATRICES))]
            row["kappa"] = [40.0 if one else None for one in there]
            row["lambda"] = [draw.choice([0.0, draw.random()]) if one else 0.0 for one in there]
        rows.append(row)
    losses = [{"step": 8 * number, "loss": draw.random(), "lr": 1e-3} for number in range(1, 121)]
    return replace(run, metrics=[*losses, *run.metrics], dynamics=rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function from an artefact and its scale to made runs with long logs."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def runs_of(name: str, scale: str) -> list[Run]:
        folders = [write_run(folder, cfg, metrics_of(name)) for cfg in configs(name, scale).values()]
        return [with_long_logs(Run.read(one, read_record(one))) for one in folders]

    return runs_of


def files(name: str, scale: str, runs, out):
    """Write an artefact's files, and return their contents by name."""
    seeds = len({run.seed for run in runs})
    write_artefact(artefact(name), scale, runs, out, expected=len(runs), seeds=seeds, command="a command")
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[pytest.mark.slow] if name == "heatmap" else []) for name in LAYOUTS]
)
def test_every_layout_has_the_same_files_from_committed_records_as_from_runs(layout, made, tmp_path):
    name, scale = EXAMPLES[layout]
    assert at_scale(artefact(name), scale).layout == layout
    runs = made(name, scale)
    write_records(runs, tmp_path)
    again = [run for task in {run.task for run in runs} for run in read_records(tmp_path, scale, task)]
    assert len(again) == len(runs)
    assert all(run.folder is None for run in again)
    found = files(name, scale, again, tmp_path / "committed")
    assert {"table.md", "table.csv", "table.tex", "claims.csv", "figure.png", "figure.svg"} <= found.keys()
    assert found == files(name, scale, runs, tmp_path / "runs")


def test_pictures_stay_that_a_run_wrote_before_it_was_committed(tmp_path, made):
    name, scale = "table_j1", "mini"
    runs = [replace(run, folder=tmp_path / run.run_id) for run in made(name, scale)]
    for run in runs:
        (run.folder / "overlays").mkdir(parents=True)
        (run.folder / "overlays" / "block_01.png").write_bytes(run.run_id.encode())
    before = files(name, scale, runs, tmp_path / "out")
    assert len([path for path in before if path.startswith("overlays/")]) == len(at_scale(artefact(name), scale).panels)
    write_records(runs, tmp_path)
    again = read_records(tmp_path, scale, "segmentation")
    assert files(name, scale, again, tmp_path / "out") == before
    elsewhere = files(name, scale, again, tmp_path / "elsewhere")
    assert "overlays" not in elsewhere["table.md"].decode()
    assert elsewhere["table.csv"] == before["table.csv"]


# --- thinning


@settings(max_examples=40)
@given(st.integers(2, 200), st.sampled_from([0, 1, 12, 70]), st.randoms(use_true_random=False))
def test_thinning_keeps_what_bounds_are_judged_by_and_is_done_once(count, matrices, draw):
    firsts = [draw.randrange(count) for _ in range(matrices)]
    rows = [
        {
            "step": step,
            "R": [draw.uniform(0.1, 1) for _ in firsts],
            "kappa": [0.5 if step >= first else None for first in firsts],
            "lambda": [draw.random() for _ in firsts],
        }
        for step in range(count)
    ]
    whole = [{"matrices": [str(number) for number in range(matrices)]}, *rows]
    kept = thin_dynamics(whole)
    steps = [row["step"] for row in kept[1:]]
    assert kept[0] == whole[0] and thin_dynamics(kept) == kept
    assert steps == sorted(steps) and {0, count - 1, *firsts} <= set(steps)
    assert len(steps) == min(count, MOST_SIZES) or len(steps) <= 4 + len(set(firsts))
    largest = [max((value for row in some[2:] for value in row["lambda"]), default=0) for some in (whole, kept)]
    assert largest[0] == largest[1]


def test_a_run_is_measured_on_the_rows_that_are_committed(made, tmp_path):
    run = next(run for run in made("figure_g1", "mini") if run.regularizer == "adamcpr_ip")
    write_records([run], tmp_path)
    (again,) = read_records(tmp_path, "mini", "gpt2")
    assert len(again.dynamics) == 1 + MOST_SIZES < len(run.dynamics)
    sizes = measured(run)
    assert sizes == measured(again)
    rows = run.dynamics[2:]
    assert sizes.largest_lambda == max(value for row in rows for value in row["lambda"])
    ratios = (size / 40 for row in rows for size, kappa in zip(row["R"], row["kappa"], strict=True) if kappa)
    assert sizes.most == max(ratios)


def test_evaluations_stay_and_training_losses_become_fewer():
    losses = [{"step": step, "loss": 1.0, "lr": 1e-3} for step in range(1, 201)]
    scores = [{"step": step, "accuracy": 1.0, "loss": 2.0} for step in range(2, 201, 2)]
    rows = sorted([*losses, *scores], key=lambda row: row["step"])
    kept = thin_metrics(rows)
    assert [row for row in kept if "accuracy" in row] == scores
    own = [row["step"] for row in kept if "lr" in row]
    assert len(own) == MOST_LOSSES and (own[0], own[-1]) == (1, 200)
    assert thin_metrics(kept) == kept


# --- the file


@pytest.fixture
def runs(made):
    return made("figure_g1", "mini")


def path_in(root):
    return path_of(root, "mini", "gpt2")


def test_equal_runs_are_equal_bytes_in_whatever_order_and_steps_they_come(runs, tmp_path):
    write_records(runs, tmp_path / "a")
    for part in (runs[5:], runs[:3], runs[2:6]):
        write_records(part, tmp_path / "b")
    content = path_in(tmp_path / "a").read_bytes()
    assert content == path_in(tmp_path / "b").read_bytes()
    assert content[3] == 0 and content[4:8] == bytes(4)  # no file name, no time
    lines = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert [line["run_id"] for line in lines] == sorted(run.run_id for run in runs)
    assert all(list(line) == ["dynamics", "metrics", "record", "run_id", "sha256"] for line in lines)
    assert all(line["record"]["config"] and "config" not in line for line in lines)


def test_what_is_committed_comes_back_to_the_last_digit(runs, tmp_path):
    write_records(runs, tmp_path)
    committed = {run.run_id: run for run in read_records(tmp_path, "mini", "gpt2")}
    for before in runs:
        after = committed[before.run_id]
        assert (before.record, before.config) == (after.record, after.config)
        assert list(before.thinned().metrics) == list(after.metrics)
        assert list(before.thinned().dynamics) == list(after.dynamics)


def test_a_second_write_touches_nothing_and_a_new_run_joins_the_others(runs, tmp_path):
    (first,) = write_records(runs[:4], tmp_path)
    assert str(first) == f"{path_in(tmp_path)}: 4 runs (4 new)"
    touched = path_in(tmp_path).stat().st_mtime_ns
    (second,) = write_records(runs[:4], tmp_path)
    assert str(second).endswith(": 4 runs (4 as committed)")
    assert path_in(tmp_path).stat().st_mtime_ns == touched
    (third,) = write_records(runs[3:], tmp_path)
    assert str(third).endswith(f": {len(runs)} runs ({len(runs) - 4} new, 1 as committed)")
    assert list(path_in(tmp_path).parent.iterdir()) == [path_in(tmp_path)]


def test_tasks_and_scales_have_their_own_files_and_a_failed_run_has_none(runs, made, tmp_path):
    failed = replace(runs[0], record=runs[0].record | {"status": "failed", "reason": "out of memory"})
    other = replace(runs[1], config=runs[1].config | {"scale": "paper"})
    merged = write_records([failed, other, *runs[2:], *made("grokking", "mini")[:2]], tmp_path)
    found = {(one.path.parts[-3], one.path.name): one.runs for one in merged}
    rest = len(runs) - 2
    assert found == {("mini", "gpt2.jsonl.gz"): rest, ("mini", "grokking.jsonl.gz"): 2, ("paper", "gpt2.jsonl.gz"): 1}
    assert read_records(tmp_path, "mini", "cifar100") == []


# --- a second run with the same id


def scored(run: Run, value: float | None, **record) -> Run:
    """Return the run with another final perplexity, or diverged."""
    metrics = {} if value is None else run.record["metrics"] | {"perplexity": value}
    status = "finished" if value is not None else "diverged"
    return replace(run, record=run.record | {"metrics": metrics, "status": status} | record)


@pytest.fixture
def cell(runs):
    """Return the three runs of one cell, with perplexities 60, 61 and 62."""
    chosen = [run for run in runs if run.regularizer == "adamcpr_ip"]
    metric = {"metric": {"name": "perplexity", "better": "lower", "unit": "1"}}
    return [scored(run, 60.0 + number, **metric) for number, run in enumerate(chosen)]


ELSEWHERE = {"hardware": {"cpu": "another one", "cores": 8, "threads": 1, "gpu": None, "processes": 1}}


@pytest.mark.parametrize(
    ("value", "elsewhere", "said"),
    [
        (60.0, {}, "as committed"),
        (60.0, ELSEWHERE, "as committed"),
        (60.0 + 1e-14, {}, "not bit for bit with the same hardware, versions and kernel: perplexity is 60.0 as"),
        (60.0 + 1e-14, {"kernel": "eager"}, "within the spread over seeds"),
        (60.0 + 1e-14, {"versions": {"python": "3.12", "torch": "2"}}, "within the spread over seeds"),
        (60.9, ELSEWHERE, "within the spread over seeds"),
        (61.1, ELSEWHERE, "further apart than the standard deviation over the seeds of its cell, 1"),
        (None, ELSEWHERE, "finished as committed, diverged now"),
    ],
)
def test_a_new_run_with_the_same_id_must_agree_and_the_committed_one_stays(cell, value, elsewhere, said, tmp_path):
    write_records(cell, tmp_path)
    before = path_in(tmp_path).read_bytes()
    (merged,) = write_records([scored(cell[0], value, **elsewhere)], tmp_path)
    assert path_in(tmp_path).read_bytes() == before
    agrees = said in ("as committed", "within the spread over seeds")
    assert (str(merged).endswith(f"(1 {said})")) == agrees == (not merged.disagreeing)
    if not agrees:
        (line,) = merged.disagreeing
        assert line.startswith(f"{cell[0].run_id}: ") and said in line and line.endswith("the committed one stays")
        assert str(merged).endswith("(1 that disagree)")


def test_an_equal_score_does_not_excuse_another_curve(cell, tmp_path):
    write_records(cell, tmp_path)
    curve = [row | {"perplexity": 1.0} if "perplexity" in row else row for row in cell[0].metrics]
    (merged,) = write_records([replace(cell[0], metrics=curve)], tmp_path)
    assert "the evaluation curve differ" in merged.disagreeing[0]
    losses = [row | {"loss": 1.0} if "lr" in row else row for row in cell[0].metrics]  # not an evaluation
    (merged,) = write_records([replace(cell[0], metrics=losses)], tmp_path)
    assert merged.same == 1


def test_a_lone_seed_has_no_spread_to_excuse_a_difference(cell, tmp_path):
    write_records(cell[:1], tmp_path)
    (merged,) = write_records([scored(cell[0], 60.001, **ELSEWHERE)], tmp_path)
    assert len(merged.disagreeing) == 1


def test_a_run_that_went_on_elsewhere_need_not_have_the_same_bits(cell, tmp_path):
    here = {key: cell[0].record.get(key) for key in ("hardware", "versions", "kernel")}
    write_records(cell, tmp_path)
    moved = {"states": [here | {"from": 0}, here | ELSEWHERE | {"from": 20}]}
    (merged,) = write_records([scored(cell[0], 60.5, **moved)], tmp_path)
    assert merged.close == 1


def test_a_disagreeing_run_takes_the_place_only_when_asked(cell, tmp_path):
    write_records(cell, tmp_path)
    (merged,) = write_records([scored(cell[0], 70.0)], tmp_path, replace=True)
    assert merged.disagreeing[0].endswith("; replaced")
    assert {run.scores["perplexity"] for run in read_records(tmp_path, "mini", "gpt2")} == {70.0, 61.0, 62.0}


# --- damage


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def digit_changed(content: bytes) -> bytes:
    text = gzip.decompress(content).decode()
    return gzip.compress(text.replace('"perplexity":61.0', '"perplexity":61.1').encode())


def not_packed(content: bytes) -> bytes:
    return gzip.decompress(content)


def without_a_digest(content: bytes) -> bytes:
    return gzip.compress(gzip.decompress(content).replace(b'"sha256"', b'"sha512"'))


@pytest.mark.parametrize("spoil", [cut, bit_flipped, digit_changed, not_packed, without_a_digest])
def test_a_damaged_file_is_neither_read_nor_written(cell, spoil, tmp_path):
    write_records(cell, tmp_path)
    path = path_in(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    for use in (lambda: read_records(tmp_path, "mini", "gpt2"), lambda: write_records(cell, tmp_path)):
        with pytest.raises(DamagedRecords, match=r"gpt2\.jsonl\.gz is damaged.*git checkout") as error:
            use()
        if spoil is digit_changed:
            assert cell[1].run_id in str(error.value)
    assert path.read_bytes() == before


def test_records_and_tables_need_no_torch(runs, tmp_path):
    write_records(runs, tmp_path)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from results import write_artefact\n"
        "from results.artefact_file import read_artefact\n"
        "from results.committed import read_records, write_records\n"
        f"root = Path({str(tmp_path)!r})\n"
        "runs = read_records(root, 'mini', 'gpt2')\n"
        "write_records(runs, root / 'again')\n"
        f"artefact = read_artefact(Path({str(ROOT / 'configs/artefact/figure_g1.yaml')!r}))\n"
        "write_artefact(artefact, 'mini', runs, root / 'out', expected=9, seeds=3, command='a command')\n"
        "sys.exit(str({'torch', 'tasks', 'cpr', 'hydra'} & set(sys.modules) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert path_in(tmp_path / "again").read_bytes() == path_in(tmp_path).read_bytes()
    assert (tmp_path / "out" / "figure.png").exists()
