"""What runs are expected to cost, after made records of runs on quiet and busy machines."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from results.published import FOLDER as PUBLISHED
from scripts import reproduce, status
from scripts.bench.made_records import write_run
from scripts.cli.common import compose_config
from scripts.reproduce import COMMAND
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.budget import Budget, budget_of
from scripts.sweep.cards import resources_of
from scripts.sweep.cost import Cost, Prices
from scripts.sweep.plan import expand
from scripts.sweep.states import states
from tasks.engine import attempts, records
from tasks.engine.errors import UserError
from tasks.engine.files import only_process

STEPS = 1000
QUIET, STARVED = 540.0, 8280.0  # seconds of one run: 9 minutes, and 2 h 18 min on a busy machine


def configs(runs_dir: Path, *more: str) -> list[DictConfig]:
    request = COMMAND.parse(["grokking", f"num_steps={STEPS}", f"runs_dir={runs_dir}", *more])
    return list(expand(load_artefact("grokking"), request.options, request.overrides).values())


def write(cfg: DictConfig, seconds: float, **more: Any) -> None:
    """Write a finished run that took these seconds."""
    folder = write_run(Path(cfg.runs_dir), cfg, ["validation_accuracy"])
    record = records.read_record(folder)
    assert record is not None
    hardware = record["hardware"] | more.pop("hardware", {})
    records.write_record(folder, record | {"seconds": seconds, "hardware": hardware} | more)


def price(runs_dir: Path, cfg: DictConfig, *more: str) -> Cost:
    """Return the price of a run that has not begun."""
    request = COMMAND.parse(["grokking", f"num_steps={STEPS}", f"runs_dir={runs_dir}", *more])
    return Prices(load_artefact("grokking"), request, states([cfg])).whole(cfg)


def of_one_method(runs_dir: Path, *more: str) -> list[DictConfig]:
    """Return the runs of AdamW, on five seeds."""
    return [cfg for cfg in configs(runs_dir, "seeds=1,2,3,4,5", *more) if cfg.regularizer.name == "adamw"]


def test_starved_runs_do_not_spoil_the_price_while_one_had_a_core_of_its_own(tmp_path):
    *ended, left = of_one_method(tmp_path)
    for number, cfg in enumerate(ended):
        write(cfg, QUIET if number == 3 else STARVED)
    assert price(tmp_path, left) == Cost(pytest.approx(QUIET), "measured")


def test_cpu_time_is_the_price_where_every_run_was_starved(tmp_path):
    *ended, left = of_one_method(tmp_path)
    for cfg in ended:
        write(cfg, STARVED, cpu_seconds=QUIET)
    assert price(tmp_path, left) == Cost(pytest.approx(QUIET), "measured")


@pytest.mark.parametrize("hardware", [{"threads": 4}, {"gpu": "a GPU"}])
def test_with_several_threads_or_a_gpu_the_wall_clock_is_the_price(tmp_path, hardware):
    device = "device=cuda" if "gpu" in hardware else "device=cpu"
    *ended, left = of_one_method(tmp_path, device)
    for cfg in ended:
        write(cfg, QUIET, cpu_seconds=9.0, hardware=hardware)
    assert price(tmp_path, left).seconds == pytest.approx(QUIET)


def test_a_wider_group_has_the_median_of_its_settings_and_not_the_quickest(tmp_path):
    for width, seconds in (("32", QUIET), ("64", 3 * QUIET), ("96", 4 * QUIET)):
        for cfg in of_one_method(tmp_path, f"task.model.width={width}"):
            write(cfg, seconds)
    (left, *_) = configs(tmp_path)
    assert price(tmp_path, left).seconds == pytest.approx(3 * QUIET)


def test_very_short_runs_count_only_where_nothing_else_is_known(tmp_path, capsys):
    short = configs(tmp_path, "num_steps=100")
    for cfg in short:
        write(cfg, 60.0)  # 0.6 s a step, of which most is the start and the evaluation
    left = configs(tmp_path)[0]
    assert price(tmp_path, left).source == "estimated"
    status.main(["grokking", f"runs_dir={tmp_path}"])
    assert "0.12 core-hours (estimated)" in capsys.readouterr().out
    (unknown, *_) = configs(tmp_path, "task.batch_size=64")
    assert price(tmp_path, unknown, "task.batch_size=64") == Cost(pytest.approx(600.0), "measured")
    write(left, QUIET)
    assert price(tmp_path, configs(tmp_path)[1]) == Cost(pytest.approx(QUIET), "measured")


@pytest.mark.parametrize(("step", "expected"), [(100, QUIET * 0.9), (500, 10 * 500)])
def test_a_run_in_progress_tells_its_own_price_after_a_quarter_of_its_steps(tmp_path, step, expected):
    ended, running, *_ = of_one_method(tmp_path)
    write(ended, QUIET)
    folder = records.run_folder(running)
    folder.mkdir(parents=True)
    attempts.note_begin(folder)
    attempts.note_start(folder, 0, {})
    (folder / "metrics.jsonl").write_text(f'{{"step": {step}, "loss": 1.0}}\n')
    begun = (folder / attempts.NAME).stat().st_mtime
    os.utime(folder / "metrics.jsonl", (begun, begun + 10 * step))
    request = COMMAND.parse(["grokking", f"num_steps={STEPS}", f"runs_dir={tmp_path}"])
    with only_process(folder):
        (state,) = states([running])
        cost = Prices(load_artefact("grokking"), request, [state]).left(state)
    assert cost == Cost(pytest.approx(expected), "measured")


# The paper's scale


def paper_runs(name: str, *more: str) -> list[tuple[DictConfig, Cost]]:
    """Return the runs of an artefact at paper scale with their prices."""
    request = COMMAND.parse([name, "scale=paper", "runs_dir=nowhere", *more])
    artefact = load_artefact(name)
    prices = Prices(artefact, request, [])
    return [(cfg, prices.whole(cfg)) for cfg in expand(artefact, request.options, request.overrides).values()]


def hours(found: list[tuple[DictConfig, Cost]]) -> float:
    return sum(cost.seconds for _, cost in found) / 3600


def test_a_gpt2m_run_takes_the_time_that_the_paper_prints():
    """Section 5.4: "up to 28h" on 8 A100. The unit price is Table I.3's."""
    medium = [(cfg, cost) for cfg, cost in paper_runs("figure3") if cfg.task.size == "gpt2m"]
    of_a_run = [cost.seconds / 8 / 3600 for _, cost in medium]
    assert len(medium) == 21 and max(of_a_run) == pytest.approx(28, rel=0.15)
    assert {cost.source for _, cost in medium} == {"the paper's Table I.3"}


@pytest.mark.parametrize(
    "more",
    [(), ("gpus=8",), ("device=cuda",), ("device=cuda:0",), ("gpus=4", "nodes=2"), ("micro_batch=8", "launcher=slurm")],
)
def test_the_price_does_not_depend_on_how_a_run_is_split(more):
    assert hours(paper_runs("table_c1", *more)) == pytest.approx(12 * 50_000 * 2.0 / 3600)


def test_computing_activations_again_takes_a_third_more():
    assert hours(paper_runs("table_c1", "gradient_checkpointing=true")) == pytest.approx(
        4 / 3 * hours(paper_runs("table_c1"))
    )


def test_slower_methods_have_the_multiples_of_table_i3():
    rows = yaml.safe_load((PUBLISHED / "table_i3.yaml").read_text())["rows"]
    printed = {(row["model"], row["optimizer"]): row["mean"] for row in rows}
    for size in ("gpt2s", "gpt2m"):
        cfg = compose_config([f"task={'gpt2' if size == 'gpt2s' else size}", "scale=paper"])
        needs = resources_of(cfg)
        assert needs is not None
        assert needs.gpu_seconds == pytest.approx(8 * printed[size, "adamw"])
        expected = {name: printed[size, name] / printed[size, "adamw"] for name in ("adadecay", "awd", "amos")}
        assert needs.slower == pytest.approx(expected, abs=0.005)


def test_reading_images_is_the_price_where_it_takes_longer_than_arithmetic():
    assert compose_config(["task=imagenet", "scale=paper"]).loader_workers == 8
    of_images = {cfg.task.size: cost for cfg, cost in paper_runs("table1")}
    small, base = of_images["deit_small"], of_images["deit_base"]
    assert small.seconds == pytest.approx(376_800 * 1024 / (8 * 115)) and "8 workers" in small.source
    assert base.seconds > small.seconds and "timm" in base.source
    more = {cfg.task.size: cost for cfg, cost in paper_runs("table1", "loader_workers=32")}
    assert more["deit_small"].seconds < 0.5 * small.seconds and "timm" in more["deit_small"].source


def test_benchmarks_beside_training_are_in_the_price():
    assert hours(paper_runs("figure_k1")) - hours(paper_runs("figure4")) == pytest.approx(54 * 3.8)


def test_a_changed_protocol_has_no_price():
    assert {cost for _, cost in paper_runs("figure5", "task.batch_size=64", "micro_batch=null")} == {
        Cost(None, "unknown")
    }


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1x24GB 24h", Budget(1, "RTX3090", 24.0)),
        ("8xa100 72.5h", Budget(8, "A100", 72.5)),
        ("2 x H100-80GB, 10 h", Budget(2, "H100", 10.0)),
    ],
)
def test_a_budget_is_read(text, budget):
    assert budget_of(text) == budget


@pytest.mark.parametrize("text", ["24h", "1x24GB", "0xA100 3h", "1xV100 3h", "1xA100 0h", "-1xA100 3h"])
def test_another_budget_is_refused_in_words(text):
    with pytest.raises(ValueError, match="must be like"):
        budget_of(text)


def test_a_budget_lists_what_fits_and_why_the_rest_does_not(capsys, tmp_path):
    asked = ["figure2", "figure4", "resnet50", "figure1", "scale=paper", f"runs_dir={tmp_path}", "--dry-run"]
    reproduce.main([*asked, "budget=1x24GB 24h"])
    figure2, figure4, resnet50, figure1 = capsys.readouterr().out.splitlines()[1:5]
    assert "its best cells" in figure2 and "cells=best gpus=1" in figure2
    assert "lora: it needs 25 GB" in figure4
    assert "batch normalization needs the whole batch at once" in resnet50
    assert re.search(r"would take 2,\d+ hours", figure1)
    reproduce.main([*asked, "budget=8xA100 200h"])
    figure2, figure4, resnet50, figure1 = capsys.readouterr().out.splitlines()[1:5]
    assert "all of it" in figure4 and "micro_batch=4" in figure4
    assert "all of it" in figure1 and "gpus=8" in figure1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"), [(["scale=paper"], "add --dry-run"), (["--dry-run"], "add scale=paper")]
)
def test_a_budget_starts_nothing_and_is_for_the_paper_s_scale(arguments, words):
    with pytest.raises(UserError, match=words):
        reproduce.main(["figure2", "budget=1x24GB 24h", *arguments])


def test_every_artefact_at_paper_scale_has_a_price_with_a_source():
    for name in known_artefacts():
        if "paper" in load_artefact(name).scales:
            found = paper_runs(name, "seeds=1")
            assert all(cost.seconds and cost.source not in ("unknown", "measured") for _, cost in found), name
