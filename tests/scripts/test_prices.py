"""What runs are expected to cost, after made records of runs on quiet and busy machines."""

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from scripts import status
from scripts.bench.made_records import write_run
from scripts.reproduce import COMMAND
from scripts.sweep.cost import Cost, Prices
from scripts.sweep.plan import expand, load_artefact
from scripts.sweep.states import states
from tasks.engine import attempts, records
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
