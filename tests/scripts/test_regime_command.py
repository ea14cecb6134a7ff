"""The regime of a task: predicted from its configuration, and measured in its runs."""

import re

import pytest
import yaml
from commands import call_forked, is_one_line
from made_runs import run

from results.regime import PAPER, measured
from results.runs import Run
from scripts.cli.common import compose_config
from tasks.engine.records import read_record, run_folder
from tasks.engine.run import run as train

RUN = ("task=grokking", "scale=mini", "num_steps=12", "task.log_every_steps=4", "quiet=true")


def rows_of(done):
    head, *rows = done.stdout.splitlines()
    return [dict(zip(*(re.split(r"\s{2,}", line.strip()) for line in (head, row)), strict=True)) for row in rows]


def test_scales_are_beside_each_other_before_any_training(tmp_path):
    done = call_forked("regime.py", "gpt2", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    paper = [row for row in rows_of(done) if row["scale"] == "paper"]
    assert [row["lr"] for row in paper] == ["0.001", "0.003162", "0.01"]
    assert [float(row["G 2x"]) for row in paper] == pytest.approx([16.7, 167, 1670], rel=0.01)
    assert {row["runs"] for row in paper} == {"-"}
    assert next(row for row in paper if row["lr"] == "0.003162")["regime"] == "inside"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "lr"), [("gpt2", "3.162e-3"), ("cifar100", "3.162e-3"), ("imagenet", "3.162e-3"), ("lora", "1.778e-3")]
)
def test_small_scale_is_inside_the_paper_s_regime(task, lr, tmp_path):
    """At the learning rate that is expected to be AdamW's best one."""
    done = call_forked("regime.py", task, "scale=small", f"lr={lr}", f"runs_dir={tmp_path}")
    (row,) = rows_of(done)
    assert row["regime"] == "inside", row


def test_the_paper_s_numbers_are_those_of_its_protocols(tmp_path):
    """At AdamW's best learning rates (results/paper_regime.yaml)."""
    for task, wanted in yaml.safe_load(PAPER.read_text()).items():
        (row,) = rows_of(call_forked("regime.py", task, "scale=paper", f"lr={wanted['lr']}", f"runs_dir={tmp_path}"))
        for key, column in (("growth", "G 2x"), ("turn", "ρ"), ("after", "end/2x")):
            if key in wanted and row[column] != "-":
                assert float(row[column]) == pytest.approx(wanted[key], rel=0.05), (task, key)


def test_runs_show_how_far_matrices_grew_and_where_their_bounds_lie(tmp_path):
    """κ of kI0 is 0.8 times the size at initialization."""
    cfg = compose_config([*RUN, "regularizer=adamcpr_ki0", "regularizer.kappa_init_param=0.8", f"runs_dir={tmp_path}"])
    train(cfg)
    sizes = measured(Run.read(run_folder(cfg), read_record(run_folder(cfg))))
    assert sizes is not None
    assert sizes.bound == pytest.approx(0.8, rel=1e-3)
    assert sizes.active == 1
    assert sizes.most > 1


def test_a_run_without_step_0_or_with_a_matrix_of_zeros_is_not_measured():
    names = {"matrices": ["a"]}
    late = [names, {"step": 4, "R": [1.0]}, {"step": 8, "R": [2.0]}]
    zeros = [names, {"step": 0, "R": [0.0]}, {"step": 8, "R": [2.0]}]
    whole = [names, {"step": 0, "R": [0.5]}, {"step": 8, "R": [2.0]}]
    found = []
    for rows in (late, zeros, whole):
        one = run("adamw", 1, {"accuracy": 1.0})
        found.append(measured(type(one)(one.config, one.record, one.metrics, rows)))
    assert found[:2] == [None, None]
    assert found[2].grown == 4


def test_a_task_without_artefacts_needs_a_scale_and_a_learning_rate():
    done = call_forked("regime.py", "gpt2l")
    assert done.returncode == 2
    is_one_line(done, "no artefact trains the task gpt2l", "lr=")
