"""A task that breaks the contract of a Workload is reported in one line."""

from dataclasses import replace

import pytest
import torch

from scripts.cli.common import compose_config
from tasks.engine.errors import UserError
from tasks.engine.run import run
from tasks.engine.workload import Metric
from tasks.grokking import task

RUN = ("task=grokking", "scale=mini", "task.data.modulus=11", "task.model.width=16", "quiet=true", "num_steps=4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda model, batch: model(batch[0]).square().mean(dim=1)},
            r"the task's loss has the shape \[\d+\]; it must return a 0-dim tensor",
        ),
        (
            {"evaluate": lambda model: {"validation_accuracy": torch.tensor(1.0)}},
            "returned a Tensor for validation_accuracy; it must be a number, such as x.item()",
        ),
        (
            {"evaluate": lambda model: {"accuracy": 1.0}},
            "the task's metric is validation_accuracy, but its evaluation returned accuracy",
        ),
    ],
)
def test_what_a_task_returns_is_checked(tmp_path, monkeypatch, changes, message):
    build = task.build
    monkeypatch.setattr(task, "build", lambda cfg, device: replace(build(cfg, device), **changes))
    with pytest.raises(UserError, match=message.replace("()", r"\(\)")):
        run(compose_config([*RUN, "regularizer=adamw", f"runs_dir={tmp_path}"]))


def test_a_direction_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="better='smaller'; it must be 'higher' or 'lower'"):
        Metric("test_error", "", "smaller")


def test_a_task_without_build_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(task, "build")
    with pytest.raises(UserError, match=r"tasks/grokking/task\.py has no function build"):
        run(compose_config([*RUN, "regularizer=adamw", f"runs_dir={tmp_path}"]))
