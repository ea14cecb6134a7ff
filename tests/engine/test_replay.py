"""Replays of runs beside Algorithm 1: the real optimizer agrees with the reference, and a faulty one is found."""

import math

import pytest
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from cpr import bounds
from scripts.cli.common import compose_config
from tasks.engine import replay as replaying
from tasks.engine import run as running
from tasks.engine.errors import UserError
from tasks.engine.records import run_folder
from tasks.engine.replay import replay
from tasks.engine.run import run

SMALL = ("task.data.modulus=11", "task.model.width=16")
STEPS = 30


@pytest.fixture
def config(tmp_path):
    """Return a configuration of grokking at mini scale with one of AdamCPR's bounds."""

    def make(regularizer, *overrides):
        keys = ("task=grokking", "scale=mini", f"regularizer={regularizer}", f"runs_dir={tmp_path}", "quiet=true")
        return compose_config([*keys, *overrides])

    return make


@pytest.fixture
def sabotaged(monkeypatch):
    """Return a function that changes the settings of the regularized groups of every optimizer that is built."""
    build = running.build_optimizer

    def change(**settings):
        def built(cfg, model):
            optimizer = build(cfg, model)
            for group in optimizer.param_groups:
                if group["regularize"]:
                    group.update({name: value(group[name]) for name, value in settings.items()})
            return optimizer

        monkeypatch.setattr(running, "build_optimizer", built)

    return change


def eager(_kernel: str) -> str:
    """Return the kernel whose arithmetic is cpr.bounds, which a test can change."""
    return "eager"


@pytest.mark.parametrize(
    ("regularizer", "key"),
    [
        ("adamcpr_ip", "regularizer.reg_step_size=2"),
        ("adamcpr_ws", "regularizer.warm_start=5"),
        ("adamcpr_ki0", "regularizer.kappa_init_param=0.8"),
        ("adamcpr_k", "regularizer.kappa_init_param=0.001"),
    ],
)
def test_a_run_of_every_bound_is_reproduced(config, regularizer, key):
    found = replay(config(regularizer, key), STEPS)
    assert found.outcome == "reproduced"
    assert found.steps == STEPS and 0 < found.bounds <= found.matrices
    assert 0 < max(found.theta, found.lam) < 1e-5
    assert found.active > 0


@pytest.mark.parametrize("options", [("evaluate_at=after",), ("adaptive=transition",), ("reg_function=std",)])
def test_a_run_of_every_variant_is_reproduced(config, options):
    keys = [f"regularizer.{option}" for option in (*options, "kappa_init_param=0.9")]
    assert replay(config("adamcpr_ki0", *SMALL, *keys), STEPS).outcome == "reproduced"


def test_a_multiplier_that_moves_the_wrong_way_differs(config, sabotaged, monkeypatch):
    right = bounds.constrain
    monkeypatch.setattr(
        bounds, "constrain", lambda group, *rest: right(group | {"kappa_update": -group["kappa_update"]}, *rest)
    )
    sabotaged(kernel=eager)
    found = replay(config("adamcpr_ki0", *SMALL, "regularizer.kappa_init_param=0.8"), STEPS)
    assert found.outcome == "differs"
    assert found.same_steps and found.lam > 0.1


def test_a_bound_set_one_step_late_differs(config, sabotaged):
    sabotaged(kappa_init_param=lambda steps: steps + 1)
    found = replay(config("adamcpr_ws", *SMALL, "regularizer.warm_start=5"), STEPS)
    assert found.outcome == "differs"
    assert not found.same_steps


def test_an_inflection_point_from_a_later_sample_on_differs(config, sabotaged, monkeypatch):
    monkeypatch.setattr(bounds, "FIRST_DECIDING_SAMPLE", 8)
    sabotaged(kernel=eager)
    found = replay(config("adamcpr_ip", *SMALL, "regularizer.reg_step_size=2"), STEPS)
    assert found.outcome == "differs"
    assert not found.same_steps and found.ties == 0


def test_an_inflection_point_of_other_samples_differs(config, sabotaged):
    sabotaged(reg_step_size=lambda interval: interval + 1)
    found = replay(config("adamcpr_ip", *SMALL, "regularizer.reg_step_size=2"), STEPS)
    assert found.outcome == "differs"
    assert not found.same_steps and found.ties == 0


def test_a_pull_of_another_size_differs(config, sabotaged):
    """λ and κ follow R, and differ little. θ tells."""
    sabotaged(reg_by_lr=lambda _: True)
    found = replay(config("adamcpr_ki0", *SMALL, "regularizer.kappa_init_param=0.8"), STEPS)
    assert found.outcome == "differs"
    assert found.theta > 1e-3


def test_a_weight_that_is_not_a_number_differs(config, monkeypatch):
    compare = replaying._Matrix.compare
    monkeypatch.setattr(replaying._Matrix, "compare", lambda self, theta, state: compare(self, theta * math.nan, state))
    assert replay(config("adamcpr_ki0", *SMALL), STEPS).theta == math.inf


def test_the_reference_follows_the_run_where_rounding_decides_the_inflection_point(config, sabotaged, monkeypatch):
    """With a margin without limit, every later sample counts as a tie."""
    monkeypatch.setattr(bounds, "FIRST_DECIDING_SAMPLE", 8)
    monkeypatch.setattr(replaying, "TIE", math.inf)
    sabotaged(kernel=eager)
    found = replay(config("adamcpr_ip", *SMALL, "regularizer.reg_step_size=2"), STEPS)
    assert found.outcome == "reproduced"
    assert found.ties > 0 and found.active > 0


def test_a_bound_later_than_the_replayed_steps_is_no_evidence(config):
    found = replay(config("adamcpr_ws", *SMALL, "regularizer.warm_start=100"), STEPS)
    assert (found.outcome, found.bounds, found.most) == ("no bound", 0, None)


def test_the_schedule_is_that_of_the_whole_run_and_watching_changes_no_bit(config):
    keys = (*SMALL, "task.log_every_steps=4", "num_steps=24")
    watched, alone = config("adamcpr_ip", *keys), config("adamcpr_ip", *keys)
    alone.runs_dir += "/alone"
    replay(watched, 20)
    run(alone)
    logs = [(run_folder(cfg) / "dynamics.jsonl").read_text().splitlines() for cfg in (watched, alone)]
    assert len(logs[0]) > 4
    assert logs[0] == logs[1][: len(logs[0])]


def test_hooks_are_gone_after_a_replay(config):
    before = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    replay(config("adamcpr_ki0", *SMALL), 2)
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == before


def test_another_optimizer_is_refused(config):
    with pytest.raises(UserError, match="adamw can't be replayed"):
        replay(config("adamw"), STEPS)


def test_matrices_that_are_never_updated_do_not_count(config, monkeypatch):
    build = running.build_workload

    def frozen(cfg, device):
        workload = build(cfg, device)
        [p for p in workload.model.parameters() if p.dim() == 2][-1].requires_grad_(False)
        return workload

    whole = replay(config("adamcpr_ki0", *SMALL), 3)
    monkeypatch.setattr(running, "build_workload", frozen)
    part = replay(config("adamcpr_ki0", *SMALL, "seed=2"), 3)
    assert part.matrices == part.bounds == whole.matrices - 1
