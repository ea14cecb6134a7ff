"""One cell of every artefact, computed from the records by plain code, equals table.csv, LaTeX and the page.

All artefacts' runs are in one folder, with runs that belong to no cell: the same settings at another
scale, and old and failed runs with a seed that no artefact has. None of them may enter a cell.
"""

import csv
import json
import re
import statistics
from pathlib import Path

import pytest
from filelock import FileLock
from made_records import expand_once, mini, mini_artefacts

from results.artefact import read_facts
from results.layouts import LAYOUTS
from results.report.packing import unpacked
from results.runs import power_of_ten
from results.schema import at_scale
from results.step_times import TITLES
from results.ticks import in_math
from scripts import report, reproduce
from scripts.bench.made_records import metrics_of, write_run
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import plan
from tasks.engine.records import run_folder

# Settings that differ from a run of an artefact, with changes to its record.
STRANGERS = (({"scale": "paper"}, {}), ({"seed": 1001}, {"commit": "0ld"}), ({"seed": 1002}, {"diverged": True}))
MINI_TIMES = Path(__file__).resolve().parents[2] / "results" / "mini"


@pytest.fixture(scope="module")
def written(tmp_path_factory, worker_id):
    """Return the folders of runs and results of `write_all`, written once for all pytest processes."""
    root = tmp_path_factory.getbasetemp()
    results_dir = (root if worker_id == "master" else root.parent) / "every_artefact"
    results_dir.mkdir(exist_ok=True)
    with FileLock(results_dir / "lock"):
        if not (results_dir / "done").exists():
            write_all(results_dir)
            (results_dir / "done").touch()
    return results_dir / "runs", results_dir / "mini"


def write_all(results_dir: Path) -> None:
    """Write records of every artefact, and the files of reproduce.py and report.py without pictures."""
    runs_dir = results_dir / "runs"
    wanted: dict[Path, set[str]] = {}
    configs = {}
    for name in mini_artefacts():
        for run_id, cfg in mini(name).items():
            configs[run_folder(cfg, run_id)] = cfg
            wanted.setdefault(run_folder(cfg, run_id), set()).update(metrics_of(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(results_dir)
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr("scripts.sweep.plan.before_finalists", expand_once)
        patch.setattr("scripts.sweep.committed_runs.FOLDER", results_dir)
        for layout in LAYOUTS.values():
            patch.setattr(layout, "figure", lambda *_: None)
        for folder, cfg in configs.items():
            write_run(runs_dir, cfg, wanted[folder])
        for folder, cfg in list(configs.items())[::10]:
            for changes, about in STRANGERS:
                stranger = cfg.copy()
                stranger.update(changes)
                write_run(runs_dir, stranger, wanted[folder], **about)
        for module in ("artefact", "interpolation", "progress"):
            patch.setattr(f"results.{module}.draw", lambda *_: [])
        for name in mini_artefacts():
            p = plan(load_artefact(name), {"scale": "mini"}, {})
            assert not p.todo
            reproduce.reproduce(p, reproduce.COMMAND.parse([name, "scale=mini"]), results_dir / "mini" / name)
        report.main([f"results_dir={results_dir}"])


def raw(runs_dir: Path, name: str) -> list[dict]:
    """Return the records of an artefact's runs from the disk."""
    return [
        json.loads((runs_dir / cfg.task.name / run_id / "record.json").read_text())
        for run_id, cfg in mini(name).items()
    ]


def content(page: Path, name: str) -> dict:
    found = re.search(rf'id="{name}">(.*?)</script>', page.read_text(), re.DOTALL)
    return unpacked(found[1])


def figures(page: Path, name: str) -> list[dict]:
    """Return the traces of an artefact's figures on the page."""
    return [
        trace
        for key, figure in content(page, "figures").items()
        if key.rpartition("-")[0] == f"{name}-mini"
        for trace in figure["data"]
    ]


def value_at(config: dict, key: str):
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None  # runs of other methods lack the key
    return config


def has(record: dict, settings: dict) -> bool:
    return all(value_at(record["config"], key) == value for key, value in settings.items())


def test_strangers_are_in_no_table_and_not_on_the_page(written):
    runs_dir, results = written
    own = {run_id for name in mini_artefacts() for run_id in mini(name)}
    strangers = {folder.parent.name for folder in runs_dir.glob("*/*/record.json")} - own
    assert len(strangers) > 150
    page = (results.parent / "index.html").read_text()
    assert set(content(results.parent / "index.html", "run-data")) == own
    assert not [run_id for run_id in strangers if run_id in page]
    for name in mini_artefacts():
        facts = read_facts(results / name / "table.md")
        assert (facts["runs"], facts["code"], facts["scale"]) == (
            f"{len(mini(name))} of {len(mini(name))}",
            "abc1234",
            "mini",
        )
        assert "1001" not in facts["seeds"]


def test_an_older_commit_a_changed_tree_and_a_failed_run_of_a_table_s_own_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scripts.sweep.plan.before_finalists", expand_once)
    monkeypatch.setattr("results.artefact.draw", lambda *_: [])
    about = {0: {"commit": "0ld"}, 1: {"commit": "abc1234-dirty"}, 2: {"diverged": True}}
    for number, cfg in enumerate(mini("figure4").values()):
        write_run(tmp_path / "runs", cfg, metrics_of("figure4"), **about.get(number, {}))
    reproduce.reproduce(
        plan(load_artefact("figure4"), {"scale": "mini"}, {}),
        reproduce.COMMAND.parse(["figure4"]),
        tmp_path / "figure4",
    )
    count = len(mini("figure4"))
    said = f"The runs are of 3 states of this repository: 1 of 0ld, {count - 2} of abc1234, 1 of abc1234-dirty."
    said += f" Trained with uncommitted changes to the code: 1 of {count} runs."
    said += " Commit before you train, so that the record names the code."
    assert said in capsys.readouterr().out.splitlines()
    assert said in (tmp_path / "figure4" / "table.md").read_text().splitlines()
    assert read_facts(tmp_path / "figure4" / "table.md")["runs"] == f"{count} of {count} (1 diverged)"
    failed = list(mini("figure4").values())[2]
    rows = [row for row in rows_of(tmp_path / "figure4") if row["diverged"] == "1"]
    assert [float(row["lr"]) for row in rows] == [failed.lr] and rows[0]["seeds"] == str(
        len(load_artefact("figure4").scales["mini"].seeds) - 1
    )


def of_layout(layout: str) -> list[str]:
    return [name for name in mini_artefacts() if load_artefact(name).layout == layout]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def in_latex(folder: Path, *words: str) -> bool:
    return any(all(word in line for word in words) for line in (folder / "table.tex").read_text().splitlines())


@pytest.mark.parametrize("name", of_layout("heatmap"))
def test_a_cell_of_a_heat_map(name, written):
    runs_dir, results = written
    artefact, cell = load_artefact(name), rows_of(results / name)[-1]
    panel = next(p for p in artefact.panels if p.title == cell["method"] and "mini" in (p.scales or ["mini"]))
    settings = panel.select_at("mini") | {"regularizer.name": panel.regularizer, "lr": float(cell["lr"])}
    chosen = [record for record in raw(runs_dir, name) if has(record, settings)]
    if panel.column:

        def shown(value):
            return f"{value:g}" if isinstance(value, int | float) else str(value)

        chosen = [record for record in chosen if shown(value_at(record["config"], panel.column)) == cell["setting"]]
    values = [record["metrics"][panel.metric or artefact.metric.name] for record in chosen]
    mean, std = statistics.mean(values), statistics.stdev(values)
    assert (float(cell["mean"]), float(cell["std"])) == pytest.approx((mean, std))
    assert int(cell["seeds"]) == len(values) == len({record["config"]["seed"] for record in chosen})
    assert in_latex(results / name, in_math(power_of_ten(float(cell["lr"]))), f"{mean:.2f}")
    ids = {record["run_id"] for record in chosen}
    found = [
        (trace["text"][y][x], trace["hovertext"][y][x])
        for trace in figures(results.parent / "index.html", name)
        if trace["type"] == "heatmap"
        for y, row in enumerate(trace["customdata"])
        for x, names in enumerate(row)
        if set(names.split()) == ids
    ]
    text, hover = next((text, hover) for text, hover in found if panel.title.replace(">", "&gt;") in hover)
    assert text == f"{mean:.{artefact.metric.digits}f}"
    assert all(
        f"seed {r['config']['seed']}: {v:.4g} · {r['run_id']}" in hover for r, v in zip(chosen, values, strict=True)
    )


@pytest.mark.parametrize("name", of_layout("curves"))
def test_the_end_of_a_curve(name, written):
    runs_dir, results = written
    artefact = at_scale(load_artefact(name), "mini")
    method, metric = artefact.methods[0], artefact.metric.name
    chosen = [r for r in raw(runs_dir, name) if has(r, method.select | {"regularizer.name": method.regularizer})]
    mean = f"{statistics.mean(r['metrics'][metric] for r in chosen):.2f}"
    row = next(row for row in rows_of(results / name) if row["method"] == method.title)
    assert row[f"final {metric.replace('_', ' ')}"].split(" ")[0] == mean
    assert in_latex(results / name, method.title, mean)
    traces = figures(results.parent / "index.html", name)
    ends = [trace["y"][-1] for trace in traces if trace.get("name") == chosen[0]["run_id"]]
    assert ends == [pytest.approx(chosen[0]["metrics"][y], rel=1e-4) for y in artefact.curves.y]
    medians = [
        trace["y"][-1]
        for trace in traces
        if trace["hovertemplate"].startswith(f"<b>{method.title},") and "name" not in trace
    ]
    assert medians == [
        pytest.approx(statistics.median(r["metrics"][y] for r in chosen), rel=1e-4) for y in artefact.curves.y
    ]


@pytest.mark.parametrize("name", of_layout("budget"))
def test_a_score_at_a_budget(name, written):
    runs_dir, results = written
    artefact = load_artefact(name)
    row = rows_of(results / name)[0]
    method = next(m for m in artefact.methods if m.title == row["method"])
    chosen = [
        r
        for r in raw(runs_dir, name)
        if has(r, {"regularizer.name": method.regularizer, "num_steps": int(row["steps"])})
    ]
    scores = {r["config"]["seed"]: r["metrics"][artefact.metric.name] for r in chosen}
    assert float(row["score"]) == pytest.approx(scores[int(row["seed"])])
    assert in_latex(results / name, method.title, row["steps"], f"{statistics.mean(scores.values()):.2f}")
    dots = {
        trace["name"]: trace["y"]
        for trace in figures(results.parent / "index.html", name)
        if trace["mode"] == "markers"
    }
    assert all(dots[r["run_id"]] == [pytest.approx(r["metrics"][artefact.metric.name])] for r in chosen)


@pytest.mark.parametrize("name", of_layout("pairs"))
def test_a_pair(name, written):
    runs_dir, results = written
    artefact = load_artefact(name)
    part, sides = artefact.parts[-1], artefact.pair.values
    row = [row for row in rows_of(results / name) if row["task"] == part.task][-1]
    settings = {"task.name": part.task, "lr": float(row["lr"])}
    of_lr = {side: [r for r in raw(runs_dir, name) if has(r, settings | {artefact.pair.key: side})] for side in sides}
    pair = {side: next(r for r in own if r["config"]["seed"] == int(row["seed"])) for side, own in of_lr.items()}
    scores = {side: record["metrics"][part.metric.name] for side, record in pair.items()}
    assert {side: float(row[side]) for side in sides} == pytest.approx(scores)
    means = [f"{statistics.mean(r['metrics'][part.metric.name] for r in own):.2f}" for own in of_lr.values()]
    assert in_latex(results / name, part.title, *means)
    ids = {record["run_id"] for record in pair.values()}
    points = [
        (x, y)
        for t in figures(results.parent / "index.html", name)
        for x, y, names in zip(t["x"], t["y"], t["customdata"], strict=True)
        if set(names.split()) == ids
    ]
    assert points == [pytest.approx(tuple(scores[side] for side in sides))]


@pytest.mark.parametrize("name", of_layout("dynamics"))
def test_the_size_of_a_matrix_at_the_end(name, written):
    runs_dir, results = written
    artefact = load_artefact(name)
    method, matrix = artefact.methods[-1], artefact.dynamics.matrices[0]
    chosen = [r for r in raw(runs_dir, name) if has(r, method.select | {"regularizer.name": method.regularizer})]
    last = {}
    for record in chosen:
        first, *_, end = (
            (runs_dir / record["config"]["task"]["name"] / record["run_id"] / "dynamics.jsonl").read_text().splitlines()
        )
        last[record["run_id"]] = json.loads(end)["R"][json.loads(first)["matrices"].index(matrix)]
    mean = f"{statistics.mean(last.values()):.3g}"
    row = next(
        r
        for r in rows_of(results / name)
        if (r["method"], r["matrix"]) == (method.title, matrix.removesuffix(".weight"))
    )
    assert row["R at last"].split(" ")[0] == mean
    assert in_latex(results / name, matrix.removesuffix(".weight"), mean)
    ends = {trace["y"][-1] for trace in figures(results.parent / "index.html", name) if trace["name"] in last}
    assert all(any(end == pytest.approx(value, rel=1e-4) for end in ends) for value in last.values())


@pytest.mark.parametrize("name", TITLES)
def test_a_ratio_of_step_times(name):
    record = json.loads((MINI_TIMES / name / "rounds.json").read_text())
    methods = record["shapes"]["gpt2s"]["training_step"]["methods"]
    label, method = next((label, method) for label, method in methods.items() if method["row"] == "adamcpr")
    ratio = statistics.median(a / b for a, b in zip(method["seconds"], methods["AdamW, fused"]["seconds"], strict=True))
    wanted = {"part": "training_step", "shape": "gpt2s", "method": label}
    row = next(row for row in rows_of(MINI_TIMES / name) if wanted.items() <= row.items())
    assert float(row["ratio"]) == pytest.approx(ratio)
    assert in_latex(MINI_TIMES / name, "AdamCPR", f"{ratio:.3f}x")


@pytest.mark.parametrize("name", TITLES)
def test_a_ratio_of_step_times_is_on_the_page(name):
    from results.report import step_times_section

    methods = json.loads((MINI_TIMES / name / "rounds.json").read_text())["shapes"]["gpt2s"]["training_step"]["methods"]
    label, method = next((label, method) for label, method in methods.items() if method["row"] == "adamcpr")
    ratio = statistics.median(a / b for a, b in zip(method["seconds"], methods["AdamW, fused"]["seconds"], strict=True))
    panel = next(
        panel for panel in step_times_section(name, "mini", MINI_TIMES / name).panels if panel.title == "gpt2s"
    )
    places = [dict(zip(trace.y, trace.x, strict=True)).get(label) for trace in panel.figure.data]
    assert any(place == pytest.approx(ratio) for place in places)
