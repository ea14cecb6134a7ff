"""The growth of matrices by the schedule: printed protocols, a measured random walk, and what a record holds."""

import json

import pytest
import torch
from torch import nn

from scripts.cli.common import compose_config
from tasks.engine.config import read_config
from tasks.engine.records import run_folder
from tasks.engine.regime import C, regime
from tasks.engine.run import run
from tasks.engine.schedule import lr_factor

RUN = ("task=grokking", "scale=mini", "task.data.modulus=11", "task.model.width=16", "quiet=true", "num_steps=20")


@pytest.mark.parametrize(
    ("task", "lr", "start", "growth", "turn"),
    [
        ("gpt2", 3.162e-3, 0.02**2, {"1x": 42, "2x": 167, "4x": 410, "end": 2000}, 0.016),
        ("cifar100", 1e-3, 1 / (3 * 576), {"1x": 0.3, "2x": 1.2, "4x": 2.9, "end": 14}, 0.032),
        ("imagenet", 1e-3, 0.02**2, {"1x": 5.2, "2x": 21, "4x": 52, "end": 345}, 0.014),
    ],
)
def test_the_paper_s_protocols_let_matrices_grow_far_beyond_their_initialization(task, lr, start, growth, turn):
    cfg = read_config(compose_config([f"task={task}", "scale=paper", f"lr={lr}"]))
    found = regime(cfg.task.schedule, cfg.lr, cfg.num_steps, [start])
    assert found["growth"] == pytest.approx(growth, rel=0.05)
    assert found["turn"] == pytest.approx(turn, rel=0.05)


def test_adam_with_random_gradients_grows_as_predicted():
    """c lies between 0.4 and 0.8 for gradients that are noise."""
    torch.manual_seed(0)
    cfg = read_config(compose_config(["task=gpt2", "scale=mini", "lr=1e-2"]))
    weight = nn.Parameter(0.02 * torch.randn(64, 64))
    optimizer = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.99))
    start = weight.detach().square().mean().item()
    for step in range(cfg.num_steps):
        optimizer.param_groups[0]["lr"] = cfg.lr * lr_factor(cfg.task.schedule, step, cfg.num_steps)
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    predicted = start * (1 + C * regime(cfg.task.schedule, cfg.lr, cfg.num_steps, [start])["growth"]["end"])
    assert predicted / 2.5 < weight.detach().square().mean().item() < 2.5 * predicted


def test_matrices_that_begin_at_zero_have_no_growth_but_a_schedule_after_the_warm_up():
    """With the paper's LoRA schedule Σ η² is 291 η², and 66 η² of it up to step 100."""
    cfg = read_config(compose_config(["task=lora", "scale=paper"]))
    for sizes in ([0.0, 0.0, 1.0], []):
        found = regime(cfg.task.schedule, cfg.lr, cfg.num_steps, sizes)
        assert (found["growth"], found["turn"]) == ({}, None)
        assert found["after"] == pytest.approx(4.4, rel=0.03)


def test_a_constant_schedule_has_growth_at_the_end_alone(tmp_path):
    record = run(compose_config([*RUN, "regularizer=adamcpr_ki0", f"runs_dir={tmp_path}"]))
    assert list(record["regime"]["growth"]) == ["end"]
    assert record["regime"]["turn"] is None and record["regime"]["after"] is None


def test_a_record_has_the_regime_of_its_sizes_at_step_0(tmp_path):
    warm_up = ("task.schedule.warmup_steps=4", "task.schedule.decay=cosine", "task.schedule.final_factor=0.1")
    cfg = compose_config([*RUN, *warm_up, "regularizer=adamw", f"runs_dir={tmp_path}"])
    record = run(cfg)
    rows = [json.loads(line) for line in (run_folder(cfg) / "dynamics.jsonl").read_text().splitlines()]
    typed = read_config(cfg)
    assert rows[1]["step"] == 0
    assert record["regime"] == regime(typed.task.schedule, typed.lr, typed.num_steps, rows[1]["R"])
    assert list(record["regime"]["growth"]) == ["1x", "2x", "4x", "end"]


def test_another_measure_than_the_mean_square_has_no_regime(tmp_path):
    cfg = compose_config([*RUN, "regularizer=adamcpr_ki0", "regularizer.reg_function=std", f"runs_dir={tmp_path}"])
    assert run(cfg)["regime"] is None
