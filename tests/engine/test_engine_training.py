"""A run's steps, logs, record and name."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from scripts.cli.common import compose_config
from tasks.engine import records
from tasks.engine.config import read_config
from tasks.engine.cpr_keys import warm_start_steps
from tasks.engine.errors import UserError
from tasks.engine.run import run
from tasks.engine.schedule import lr_factor

SMALL = ("task.data.modulus=13", "task.model.width=8", "task.model.heads=2", "task.batch_size=16", "num_steps=20")
EVERY_STEP = ("task.log_every_steps=1", "task.eval_every_steps=null")
WARM_UP = ("task.schedule={warmup_steps: 6, decay: cosine, final_factor: 0.1}",)
PLAIN_SGD = ("regularizer=sgd", "regularizer.weight_decay=0", "regularizer.momentum=0", "lr=0.5")


def config(runs_dir: Path | str, *overrides: str) -> DictConfig:
    return compose_config(
        ["task=grokking", "regularizer=adamw", "quiet=true", f"runs_dir={runs_dir}", *SMALL, *overrides]
    )


def rows(cfg: DictConfig, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (records.run_folder(cfg) / name).read_text().splitlines()]


def losses(cfg: DictConfig) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(cfg) if "loss" in row}


def flat(optimizer: Optimizer, of: str) -> Tensor:
    """Return all parameters ("data") or gradients ("grad") of the optimizer as one vector."""
    tensors = [
        getattr(p, of) for group in optimizer.param_groups for p in group["params"] if getattr(p, of) is not None
    ]
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).clone()


@contextmanager
def watched_steps() -> Iterator[list[dict[str, Any]]]:
    """Record learning rates, gradient norm and step length of every optimizer step in the block."""
    seen: list[dict[str, Any]] = []
    before: list[Tensor] = []

    def pre(optimizer: Optimizer, *_: Any) -> None:
        before[:] = [flat(optimizer, "data")]

    def post(optimizer: Optimizer, *_: Any) -> None:
        length = (flat(optimizer, "data") - before[0]).norm().item()
        lrs = {group["lr"] for group in optimizer.param_groups}
        seen.append({"lrs": lrs, "gradient": flat(optimizer, "grad").norm().item(), "length": length})

    hooks = register_optimizer_step_pre_hook(pre), register_optimizer_step_post_hook(post)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Restore the process's settings: a run sets threads and determinism, and other tests share them."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision(precision)


def test_gradients_are_clipped_to_the_limit_and_shorter_ones_are_left_alone(tmp_path):
    with watched_steps() as free:
        run(config(tmp_path, *PLAIN_SGD))
    norms = [step["gradient"] for step in free]
    tiny, middle = min(norms) / 100, (norms[0] + max(norms)) / 2
    assert norms[0] < 0.99 * middle
    for limit in (tiny, middle):
        with watched_steps() as clipped:
            run(config(tmp_path, *PLAIN_SGD, f"task.grad_clip={limit}"))
        assert clipped[0]["gradient"] == pytest.approx(min(norms[0], limit), rel=1e-4)
        assert max(step["gradient"] for step in clipped) == pytest.approx(limit, rel=1e-4)
        assert all(step["length"] == pytest.approx(0.5 * step["gradient"], rel=1e-3) for step in clipped)


def test_a_small_limit_changes_the_path_of_the_parameters_and_one_never_reached_does_not(tmp_path):
    ends = {
        limit: run(config(tmp_path, f"task.grad_clip={limit}"))["state_sha256"] for limit in ("null", "1e-3", "1e6")
    }
    assert ends["null"] == ends["1e6"] != ends["1e-3"]


@pytest.mark.parametrize(
    "regularizer",
    [
        "adamw",
        "adamcpr_ws",
        "sgd_cpr",
        "rescaling",
        "adadecay",
        "awd",
        "amos",
        "adamw_schedule",
        "lion",
        "muon",
        "hyperball",
    ],
)
def test_every_step_gets_the_learning_rate_of_the_schedule_and_the_log_says_it(tmp_path, regularizer):
    cfg = config(tmp_path, f"regularizer={regularizer}", "lr=3e-3", *EVERY_STEP, *WARM_UP)
    with watched_steps() as seen:
        run(cfg)
    expected = [3e-3 * lr_factor(read_config(cfg).task.schedule, step, 20) for step in range(20)]
    assert expected[0] == 0 and len(set(expected)) > 15
    assert [step["lrs"] for step in seen] == [{lr} for lr in expected]
    assert [(row["step"], row["lr"]) for row in rows(cfg) if "lr" in row] == list(enumerate(expected, start=1))


def test_the_first_step_of_a_warm_up_moves_nothing(tmp_path):
    with watched_steps() as seen:
        run(config(tmp_path, "num_steps=3", *WARM_UP))
    assert [step["length"] > 0 for step in seen] == [False, True, True]


def test_the_seed_decides_the_weights_at_the_start(tmp_path):
    cfgs = [config(tmp_path, "num_steps=1", f"seed={seed}", *WARM_UP) for seed in (1, 2)]
    assert len({run(cfg)["seed"] for cfg in cfgs}) == 2
    assert not set.intersection(*(set(rows(cfg, "dynamics.jsonl")[1]["R"]) for cfg in cfgs))


@pytest.mark.parametrize(
    "regularizer, keys",
    [("adamw", {"R"}), ("adamcpr_ws", {"R", "kappa", "lambda"}), ("sgd_cpr", {"R", "kappa", "lambda"})],
)
def test_the_dynamics_name_the_matrices_once_and_every_row_has_one_value_of_each(tmp_path, regularizer, keys):
    cfg = config(tmp_path, f"regularizer={regularizer}", "task.log_every_steps=8", *WARM_UP)
    run(cfg)
    first, *later = rows(cfg, "dynamics.jsonl")
    linear = ("query", "key", "value", "output", "mlp_in", "mlp_out", "unembedding")
    assert sorted(first) == ["matrices"]
    assert sorted(first["matrices"]) == sorted(f"{name}.weight" for name in ("token_embedding", *linear))
    assert [row["step"] for row in later] == [0, 8, 16, 20]
    for row in later:
        assert set(row) == {"step"} | keys
        assert {len(row[key]) for key in keys} == {8}
        assert all(size > 0 for size in row["R"])


def test_a_warm_start_s_bound_is_null_until_set_then_the_size_at_that_step_for_good(tmp_path):
    cfg = config(tmp_path, "regularizer=adamcpr_ws", "regularizer.warm_start=7", "lr=1e-2", *EVERY_STEP)
    assert run(cfg)["without_bound"] == []
    later = rows(cfg, "dynamics.jsonl")[2:]
    # κ is the size after 7 updates; the 8th is the first that begins with it.
    assert later[6]["step"] == 7 and all(row["kappa"] == [None] * 8 and row["lambda"] == [0] * 8 for row in later[:7])
    assert all(row["kappa"] == pytest.approx(later[6]["R"], rel=1e-6) for row in later[7:])  # summed in another order
    assert any(multiplier > 0 for row in later[8:] for multiplier in row["lambda"])


def test_a_bound_that_is_never_set_stays_null_and_is_in_the_record(tmp_path, capsys):
    cfg = config(tmp_path, "regularizer=adamcpr_ws", "regularizer.warm_start=50")
    record = run(cfg)
    first, *later = rows(cfg, "dynamics.jsonl")
    assert record["without_bound"] == first["matrices"] and all(row["kappa"] == [None] * 8 for row in later)
    assert "CPR will never act" in capsys.readouterr().err


def test_a_logged_loss_is_the_mean_since_the_last_row_and_watching_changes_nothing(tmp_path):
    each, fifth, seventh = (config(tmp_path, f"task.log_every_steps={every}") for every in (1, 5, 7))
    evaluated = config(tmp_path, "task.eval_every_steps=1")
    assert len({run(cfg)["state_sha256"] for cfg in (each, fifth, seventh, evaluated)}) == 1
    single = losses(each)
    assert list(single) == list(range(1, 21))
    for cfg, windows in ((fifth, [(1, 5), (6, 10), (11, 15), (16, 20)]), (seventh, [(1, 7), (8, 14), (15, 20)])):
        means = {
            last: math.fsum(single[step] for step in range(first, last + 1)) / (last - first + 1)
            for first, last in windows
        }
        assert losses(cfg) == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("every, steps", [("null", [20]), ("8", [8, 16, 20]), ("10", [10, 20]), ("50", [20])])
def test_evaluations_stand_at_every_nth_step_and_once_at_the_end(tmp_path, every, steps):
    cfg = config(tmp_path, f"task.eval_every_steps={every}")
    record = run(cfg)
    evaluations = [row for row in rows(cfg) if "validation_accuracy" in row]
    assert [row["step"] for row in evaluations] == steps
    assert evaluations[-1] == {"step": 20} | record["metrics"]
    assert set(record["metrics"]) == {"validation_accuracy", "train_accuracy"}


def test_the_record_says_what_was_run_how_it_ended_and_on_what(tmp_path):
    cfg = config(tmp_path, "seed=5")
    record = run(cfg)
    assert record == json.loads((records.run_folder(cfg) / "record.json").read_text())
    assert record["run_id"] == records.run_id(cfg) == f"adamw-s5-{record['config_hash'][:12]}"
    assert (record["status"], record["reason"], record["steps"], record["seed"]) == ("finished", None, 20, 5)
    assert record["config_hash"] == records.config_hash(cfg)
    assert record["config"]["num_steps"] == 20 and "runs_dir" not in record["config"]
    assert record["metric"] == {"name": "validation_accuracy", "unit": "%", "better": "higher"}
    assert 0 <= record["metrics"]["validation_accuracy"] <= 100
    assert 0 < record["cpu_seconds"] < 1.1 * record["seconds"]  # one thread
    assert record["steps_per_second"] >= 20 / record["seconds"]  # only updates, without evaluations
    assert record["versions"]["torch"] == metadata.version("torch")
    assert re.fullmatch(r"[0-9a-f]{12,}(-dirty(-[0-9a-f]{8})?)?", record["git_commit"])
    assert record["hardware"]["gpu"] is None and record["hardware"]["threads"] == 1 and record["hardware"]["cpu"]


@pytest.mark.parametrize("regularizer", ["adamw", "adamcpr_ip", "sgd_cpr"])
def test_the_same_seed_ends_with_the_same_bits_in_another_folder_and_another_seed_does_not(tmp_path, regularizer):
    arguments = (f"regularizer={regularizer}", *WARM_UP)
    first, again = (run(config(tmp_path / folder, *arguments, "seed=1")) for folder in "ab")
    other = run(config(tmp_path / "a", *arguments, "seed=2"))
    assert first["run_id"] == again["run_id"] != other["run_id"]
    assert first["state_sha256"] == again["state_sha256"] != other["state_sha256"]
    assert first["metrics"] == again["metrics"]


WATCHING = (
    *(
        "runs_dir=elsewhere",
        "data_dir=elsewhere",
        "device=cuda:1",
        "threads=3",
        "logging=wandb",
        "quiet=false",
        "deterministic=false",
    ),
    *("checkpoint_every_steps=3", "checkpoint_every_minutes=null"),
)


@pytest.mark.parametrize("override", WATCHING)
def test_where_a_run_lies_how_it_is_watched_and_what_it_runs_on_are_not_in_its_id(override):
    assert config("runs", override) != config("runs")
    assert records.run_id(config("runs", override)) == records.run_id(config("runs"))


def test_every_setting_that_changes_a_result_changes_the_id():
    settings = (
        "lr=2e-3",
        "seed=2",
        "num_steps=21",
        "task.batch_size=17",
        "task.data.modulus=17",
        "task.schedule.warmup_steps=1",
    )
    settings += (
        "task.grad_clip=1",
        "task.reg_embedding=false",
        "regularizer.kappa_update=2",
        "regularizer.reg_function=l1",
    )
    settings += ("regularizer=adamw", "regularizer=adamcpr_ws", "task=cifar100", "scale=paper")
    plain = ["task=grokking", "regularizer=adamcpr_ip"]
    ids = [
        records.run_id(compose_config(plain)),
        *(records.run_id(compose_config([*plain, setting])) for setting in settings),
    ]
    assert len(set(ids)) == 1 + len(settings)


def test_the_id_counts_the_learning_rate_and_the_steps_not_where_they_were_given():
    assert records.run_id(config("runs", "lr=2e-3")) == records.run_id(config("runs", "task.lr=2e-3"))
    assert records.run_id(config("runs", "task.num_steps=7")) == records.run_id(
        config("runs")
    )  # num_steps=20 is given above it


@pytest.mark.parametrize("value, steps", [("2x", 1000), ("0.5x", 250), ("0x", 0), (300, 300), (300.0, 300), (0, 0)])
def test_a_warm_start_is_a_number_of_steps_or_a_multiple_of_the_lr_warm_up(value, steps):
    assert warm_start_steps(value, 500) == steps


@pytest.mark.parametrize("value", ["x", "300", "twice", "2y", "-1x", "nanx", -1, 1.5, math.nan, None, [2]])
def test_any_other_warm_start_is_refused_in_words(value):
    with pytest.raises(UserError, match=r"regularizer\.warm_start=.* must be a .*number of steps"):
        warm_start_steps(value, 500)


def test_a_multiple_of_no_lr_warm_up_is_refused_and_a_number_of_steps_is_not():
    assert warm_start_steps(300, 0) == 300
    with pytest.raises(UserError, match="multiple of the lr warm-up, which this task does not have"):
        warm_start_steps("2x", 0)
