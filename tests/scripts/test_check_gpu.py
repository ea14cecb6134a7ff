"""check_gpu.py on a CPU, where everything is tiny."""

import json

import pytest
import torch

from scripts import check_gpu
from scripts.check import problems, report, same_bits, speed, suites
from scripts.check.report import FAILED, NOT_RUN, PASSED, Stage
from scripts.cli.common import compose_config
from tasks.engine.config import read_config
from tasks.engine.errors import TrainingFailed, UserError

CPU = torch.device("cpu")


def test_every_task_has_a_problem_whose_loss_falls():
    """speed trains on one batch, so a few steps must lower the loss. Segmentation's loss starts anywhere."""
    for task in ("cifar100", "gpt2"):
        cfg, _ = speed.configuration(task, CPU)
        config = read_config(cfg)
        torch.manual_seed(0)
        problem = problems.problem_of(config.task, tiny=True)
        batch = problem.batch(config.task.batch_size, CPU)
        optimizer = torch.optim.Adam(problem.model.parameters(), lr=1e-2)
        losses = []
        for _ in range(8):
            loss = problem.loss(problem.model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0], task


def test_speed_measures_both_loops_and_reports_them(tmp_path):
    torch.set_num_threads(1)
    stage = speed.speed(CPU, ["gpt2"], seconds=0.2)
    (row,) = stage.rows
    assert stage.outcome == PASSED and row["examples a step"] == 4
    assert row["tokens a second"] == pytest.approx(4 * 64 / row["seconds a step"]) and row["x plain loop"] > 0


@pytest.mark.weekly
@pytest.mark.parametrize("task", speed.TASKS)
def test_speed_of_every_task(task):
    torch.set_num_threads(1)
    if task == "segmentation":
        pytest.importorskip("nnunetv2")
    assert speed.speed(CPU, [task], seconds=0.2).outcome == PASSED


def test_speed_on_a_gpu_takes_the_paper_s_share_of_the_batch(monkeypatch):
    cfg, paper = speed.configuration("gpt2", torch.device("cuda"))
    assert (cfg.task.batch_size, cfg.micro_batch, cfg.gpus) == (32, 32, 1) and cfg.task.model == paper.task.model
    cfg, _ = speed.configuration("lora", torch.device("cuda"))
    assert (cfg.task.batch_size, cfg.micro_batch) == (128, 4)


def test_the_same_bits_are_the_same_twice(tmp_path):
    stage = same_bits.same_bits(CPU, tmp_path, ["grokking"])
    assert stage.outcome == PASSED and "," not in stage.rows[0]["sha256"]


def test_other_bits_are_a_failure(tmp_path, monkeypatch):
    digests = iter(("a" * 64, "b" * 64))
    monkeypatch.setattr(same_bits, "_digest", lambda *_: next(digests))
    stage = same_bits.same_bits(CPU, tmp_path, ["grokking"])
    assert stage.outcome == FAILED and stage.rows[0]["sha256"] == f"{'a' * 12}, {'b' * 12}"


@pytest.mark.parametrize(
    ("body", "outcome", "said"),
    [
        ("assert True", PASSED, "1 passed"),
        ("assert False, 'no'", FAILED, "1 failure"),
        ("import time; time.sleep(60)", NOT_RUN, "not done within 3 s"),
    ],
)
def test_a_suite_passes_fails_or_is_stopped(tmp_path, body, outcome, said):
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    seconds = 3 if outcome == NOT_RUN else 60
    stage = suites._suite("kernels", (str(tmp_path / "test_it.py"),), "", tmp_path, seconds)
    assert (stage.outcome, stage.said) == (outcome, said)
    assert [row["test"] for row in stage.rows] == (["test_it"] if outcome == FAILED else [])


def test_graphs_need_a_gpu(tmp_path):
    assert suites.graphs(CPU, tmp_path, 1.0).outcome == NOT_RUN


def test_the_report_has_every_stage_and_its_numbers(tmp_path):
    stages = [
        Stage("speed", PASSED, "fits", [{"task": "gpt2", "GB": 19.51}, {"task": "lora", "note": "a|b"}], "printed", 3.2)
    ]
    report.write(tmp_path, {"hardware": "a GPU"}, stages)
    assert json.loads((tmp_path / "report.json").read_text())["stages"][0]["rows"][0]["GB"] == 19.51
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "| speed | passed | 3 | fits |" in lines
    assert lines[-3:] == ["```text", "printed", "```"]
    assert "| gpt2 | 19.5 |  |" in lines and "| lora |  | a\\|b |" in lines


def test_the_command_runs_the_named_stages_and_fails_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_gpu, "stage_functions", lambda *_: {"graphs": lambda _: Stage("graphs", FAILED, "no")})
    with pytest.raises(TrainingFailed, match="graphs failed"):
        check_gpu.main(["graphs", "device=cpu", f"folder={tmp_path}"])
    assert "graphs: failed: no" in capsys.readouterr().out and (tmp_path / "report.md").exists()


def test_an_unknown_stage_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="kernels"):
        check_gpu.main(["kernel", "device=cpu", f"folder={tmp_path}"])


def test_the_configuration_of_every_task_can_be_measured():
    for task in speed.TASKS:
        cfg, paper = speed.configuration(task, torch.device("cuda"))
        read_config(cfg)
        assert compose_config([f"task={task}", "scale=paper"]).task.lr == paper.task.lr
