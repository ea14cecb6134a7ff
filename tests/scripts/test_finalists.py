"""Finalists from end to end: tuning runs, each method's setting on fresh seeds, and the findings."""

import csv
import re
from pathlib import Path

import pytest
import yaml
from commands import call_forked, is_one_line, records

from results import Run
from scripts import prune, reproduce, reproduce_all, status
from scripts.sweep import artefacts, ended_runs
from scripts.sweep.artefacts import at_own_scale, load_artefact
from scripts.sweep.plan import expand, fresh_seeds, plan
from scripts.sweep.slurm import plain
from tasks.engine.errors import UserError

FAST = {
    "lr": [1e-3, 1e-2],
    "task.num_steps": 16,
    "task.model.width": 32,
    "task.batch_size": 64,
    "task.eval_every_steps": 8,
}
TOY = {
    "title": "A toy",
    "task": "grokking",
    "layout": "heatmap",
    "row": "lr",
    "metric": {"name": "validation_accuracy", "label": "accuracy", "unit": "%", "better": "higher"},
    "scales": {
        "small": {
            "minutes_per_run": 6,
            "seeds": [1, 2],
            "finalists": 2,
            "grids": [
                {"regularizer": "adamw", "regularizer.weight_decay": [0, 0.1]} | FAST,
                {"regularizer": "adamcpr_ki0", "regularizer.kappa_init_param": [0.8]} | FAST,
            ],
        }
    },
    "panels": [
        {"title": "AdamW", "regularizer": "adamw", "column": "regularizer.weight_decay"},
        {"title": "kI0", "regularizer": "adamcpr_ki0"},
    ],
    "control": {"panel": "adamw", "value": 0},
    "claims": [
        {"id": "best", "kind": "best", "text": "kI0 > AdamW", "published": "-", "left": "adamcpr_ki0", "right": "adamw"}
    ],
}
TUNING = 2 * 3 * 2  # learning rates, settings at each, seeds


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Write the toy beside the scales, and return its keys for a command."""
    folder = tmp_path / "configs"
    (folder / "artefact").mkdir(parents=True)
    (folder / "artefact" / "toy.yaml").write_text(yaml.safe_dump(TOY))
    (folder / "scale").symlink_to(artefacts.CONFIG_DIR / "scale")
    monkeypatch.setattr(artefacts, "CONFIG_DIR", folder)
    return [f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]


def seeds_of(runs: dict) -> dict[int, int]:
    """Return how many runs each seed has."""
    seeds = [record["config"]["seed"] for record in runs.values()]
    return {seed: seeds.count(seed) for seed in sorted(set(seeds))}


@pytest.mark.slow
def test_each_method_s_setting_is_trained_on_fresh_seeds_once_and_compared_on_them(toy, tmp_path, capsys):
    command = ["toy", "jobs=2", *toy]
    reproduce_all.main(command)
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].split() == ["toy", "done"]
    assert "toy has no mini scale: scale=small" in said.err
    assert f"toy: {TUNING} runs, 0 done, {TUNING} to do" in said.out
    (more,) = {int(count) for count in re.findall(rf"{TUNING} done, (\d+) to do", said.out)}
    assert more in (4, 6)  # kI0's setting and AdamW's one or two: its best, and the control
    runs = records(tmp_path / "runs")
    assert seeds_of(runs) == {1: TUNING // 2, 2: TUNING // 2, 101: more // 2, 102: more // 2}

    page = (tmp_path / "results" / "small" / "toy" / "table.md").read_text()
    assert f"- runs: {TUNING + more} of {TUNING + more}" in page and "- seeds: 1, 2, 101, 102" in page
    assert "## Chosen settings on fresh seeds" in page and "Control: AdamW (other than 0)" in page
    (claim,) = csv.DictReader((tmp_path / "results" / "small" / "toy" / "claims.csv").open())
    assert claim["outcome"] in ("ahead", "behind", "not resolved") and claim["pairs"] == "2"
    cells = list(csv.DictReader((tmp_path / "results" / "small" / "toy" / "table.csv").open()))
    assert {(cell["seeds"], cell["missing"]) for cell in cells} == {("2", "0")}  # of the tuning seeds alone

    folders = [path.parent for path in (tmp_path / "runs").glob("*/*/record.json")]
    assert prune.owned(tmp_path / "runs", folders) == set(folders)  # prune --orphans leaves the finalists

    written = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")}
    reproduce.main(command)
    assert f"toy: {TUNING + more} runs, {TUNING + more} done, 0 to do" in capsys.readouterr().out
    assert records(tmp_path / "runs") == runs
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")} == written

    for left_out in ("finalists=0", "seeds=1,2"):
        reproduce.main([*command, left_out])
        assert f"toy: {TUNING} runs, {TUNING} done, 0 to do" in capsys.readouterr().out
        (claim,) = csv.DictReader((tmp_path / "results" / "small" / "toy" / "claims.csv").open())
        assert claim["outcome"] == "numbers only"
    assert records(tmp_path / "runs") == runs
    reproduce.main([*command, "--dry-run"])
    said = capsys.readouterr().out
    assert f"{TUNING + more} runs, 0 would be trained" in said and "finalists" not in said


def test_a_plan_reads_each_ended_run_once(toy, monkeypatch):
    artefact, options, overrides = load_artefact("toy"), {"scale": "small"}, {"runs_dir": "/none"}
    configs, read = expand(artefact, options, overrides), []

    def ended_run(folder, *, set_aside):
        read.append(folder.name)
        if folder.name not in configs:
            return None
        record = {"run_id": folder.name, "status": "finished", "metrics": {"validation_accuracy": 90.0}}
        return Run(plain(configs[folder.name]), record)

    monkeypatch.setattr(ended_runs, "ended_run", ended_run)
    planned = plan(artefact, options, overrides)
    assert (len(planned.configs), len(planned.runs), len(planned.todo)) == (TUNING + 6, TUNING, 6)
    assert len(read) == len(set(read)) == TUNING + 6


def test_finalists_are_not_asked_for_before_the_grids_runs_have_ended_and_are_priced(toy, tmp_path, capsys):
    reproduce.main(["toy", *toy, "--dry-run"])
    said = capsys.readouterr().out
    assert f"{TUNING} runs, {TUNING} would be trained" in said
    # kI0's setting, and AdamW's with and without decay, at 6 minutes each
    line = (
        "and up to 6 runs of finalists (2 fresh seeds of about 3 settings) once these have ended, about 0.6 core-hours"
    )
    assert said.splitlines()[-1] == line
    status.main(["toy", *toy])
    assert f"toy: {line}" in capsys.readouterr().out
    for left_out in ("finalists=0", "seeds=1"):
        reproduce.main(["toy", *toy, left_out, "--dry-run"])
        assert "finalists" not in capsys.readouterr().out
    reproduce.main(["toy", *toy, "seeds=1", "finalists=4", "--dry-run"])
    assert "and up to 12 runs of finalists (4 fresh seeds of about 3 settings)" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()


def test_the_artefact_s_number_of_fresh_seeds_is_replaced_by_the_one_asked_for():
    figure2 = load_artefact("figure2")
    assert fresh_seeds(figure2, {"scale": "small"}) == list(range(101, 109))
    assert fresh_seeds(figure2, {"scale": "mini"}) == []
    assert fresh_seeds(figure2, {"scale": "mini", "finalists": 2}) == [101, 102]
    assert fresh_seeds(figure2, {"scale": "small", "seeds": "1,2"}) == []
    assert fresh_seeds(figure2, {"scale": "small", "seeds": "1,2", "finalists": 1}) == [101]


def test_a_seed_that_is_kept_for_finalists_is_refused_in_one_line(toy, tmp_path):
    with pytest.raises(UserError, match="seeds=1,101 must be below 101: finalists= trains the seeds from it on"):
        expand(load_artefact("toy"), {"scale": "small", "seeds": "1,101"}, {})
    path = Path(artefacts.CONFIG_DIR) / "artefact" / "toy.yaml"
    path.write_text(path.read_text().replace("seeds:\n    - 1\n    - 2", "seeds:\n    - 1\n    - 101"))
    done = call_forked("reproduce.py", "toy", *toy)
    assert done.returncode == 2
    is_one_line(done, "toy.yaml: scales.small: seed 101 must be below 101")


def test_a_named_scale_is_taken_at_its_word(toy):
    artefact = load_artefact("toy")
    request = reproduce.COMMAND.parse(["toy"])
    own = at_own_scale(artefact, request)
    assert (own.options["scale"], own.given) == ("small", {"scale": "small"})
    asked = reproduce.COMMAND.parse(["toy", "scale=mini"])
    assert at_own_scale(artefact, asked) is asked
    with pytest.raises(UserError, match="scale='mini' is unknown to toy; choose one of small"):
        reproduce.main(["toy", "scale=mini", *toy])
    assert at_own_scale(load_artefact("toy").model_copy(update={"scales": {"mini": 1}}), request) is request
