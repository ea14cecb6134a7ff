"""A run as it is read from its folder, and an artefact as one scale has it."""

import json

import pytest
from made_runs import artefact

from results import Run
from results.schema import at_scale

CONFIG = {"seed": 3, "num_steps": 80, "task": {"name": "grokking"}, "regularizer": {"name": "adamw"}}


@pytest.fixture
def folder(tmp_path):
    """A run that has begun: its last line is being written."""
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (tmp_path / "dynamics.jsonl").write_text('{"matrices": ["a"]}\n{"step": 1, "R": [0.5]}\n')
    return tmp_path


def test_a_run_without_a_record_is_missing_and_has_what_it_logged(folder):
    run = Run.read(folder, {})
    assert (run.status, run.run_id, run.scores) == ("missing", folder.name, {})
    assert (run.seed, run.num_steps, run.task, run.regularizer) == (3, 80, "grokking", "adamw")
    assert run.metrics == [{"step": 1, "loss": 2.0}]
    assert [row["R"] for row in run.dynamics[1:]] == [[0.5]]


def test_the_record_says_how_a_run_ended_and_what_it_was_trained_with(folder):
    record = {"run_id": "an-id", "status": "diverged", "metrics": {}, "config": CONFIG | {"seed": 4}}
    run = Run.read(folder, record)
    assert (run.status, run.run_id, run.seed) == ("diverged", "an-id", 4)
    finished = record | {"status": "finished", "metrics": {"loss": 1.0}}
    assert Run.read(folder, finished).scores == {"loss": 1.0}


def test_a_scale_has_its_own_panels_claims_and_selected_values():
    table1 = artefact("table1")
    mini, paper = at_scale(table1, "mini"), at_scale(table1, "paper")
    assert [panel.name for panel in mini.panels] == ["adamw", "ws", "ip"]
    assert len(paper.panels) == len(table1.panels) == 6
    assert {claim.id for claim in paper.claims} - {claim.id for claim in mini.claims} == {
        "deit-base-ip",
        "deit-base-ws",
    }
    assert (mini.name, mini.scale, table1.scale) == ("table1", "mini", "")
    assert at_scale(mini, "mini") == mini
    selected = [value for one in (*at_scale(artefact("table_j1"), "mini").panels,) for value in one.select.values()]
    assert selected and not any(isinstance(value, dict) for value in selected)
