"""`make reproduce` from end to end: real worker processes, signals, kills and result files."""

import csv
import json
import os
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from commands import ROOT, call, is_one_line, records, start, wait_until, write_fashion_mnist
from made_runs import out_of_memory, run

from scripts.reproduce import ended
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand

METHODS = 6
GROKKING = ("grokking", "task.model.width=32", "task.batch_size=64")  # the same artefact, faster
IN_PAIRS = (*GROKKING, "task.log_every_steps=8", "task.eval_every_steps=null", "jobs=2")
FILES = ["claims.csv", "figure.png", "figure.svg", "table.csv", "table.md", "table.tex"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_grokking_twice_gives_the_same_files_and_the_second_time_starts_no_run(tmp_path):
    arguments = (*GROKKING, f"runs_dir={tmp_path}", "num_steps=24", "task.eval_every_steps=8")
    before = contents(ROOT / "results" / "mini" / "grokking")
    first = call("reproduce.py", *arguments)
    assert first.returncode == 0, first.stderr
    assert "6 runs, 0 done, 6 to do" in first.stdout
    folder = tmp_path / "results" / "mini" / "grokking"
    written, runs = contents(folder), records(tmp_path)
    assert sorted(written) == FILES
    assert len(runs) == METHODS
    second = call("reproduce.py", *arguments)
    assert second.returncode == 0
    assert "6 runs, 6 done, 0 to do" in second.stdout
    assert contents(folder) == written
    assert records(tmp_path) == runs
    assert contents(ROOT / "results" / "mini" / "grokking") == before  # 24 steps are not the committed table's artefact


@pytest.mark.slow
def test_figure2_shows_every_cell_beside_the_paper_s(tmp_path):
    data = write_fashion_mnist(tmp_path / "data")
    arguments = (
        "figure2",
        f"runs_dir={tmp_path}",
        f"data_dir={data}",
        "num_steps=3",
        "task.data.train_size=100",
        "seeds=1,2",
        "lr=1e-2",
    )
    done = call("reproduce.py", *arguments, f"results_dir={tmp_path / 'out'}", timeout=240)
    assert done.returncode == 0, done.stderr
    assert "16 runs, 0 done, 16 to do" in done.stdout  # (4 + 1 + 3) settings x 2 seeds
    folder = tmp_path / "out" / "mini" / "figure2"
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [(row["method"], row["setting"], row["seeds"], row["missing"]) for row in rows] == [
        *(("AdamW", decay, "2", "0") for decay in ("0", "0.001", "0.01", "0.1")),
        ("AdamCPR Kappa-IP", "", "2", "0"),
        *(("AdamCPR Kappa-WS", multiple, "2", "0") for multiple in ("1x", "2x", "4x")),
    ]
    assert all(float(row["mean_paper"]) > 30 for row in rows)
    assert "seeds: 1, 2" in (folder / "table.md").read_text()


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_every_run_of_evaluate_at_has_a_partner(scale):
    artefact, pairs = load_artefact("evaluate_at"), defaultdict(list)
    for cfg in expand(artefact, {"scale": scale}, {}).values():
        pairs[cfg.task.name, cfg.lr, cfg.seed].append(cfg.regularizer.evaluate_at)
    seeds = {"grokking": 4 if scale == "mini" else 16, "cifar100": 4 if scale == "mini" else 10}
    places = [("grokking", 1e-3, seed + 1) for seed in range(seeds["grokking"])] + [
        ("cifar100", lr, seed + 1) for lr in (1e-3, 1e-2) for seed in range(seeds["cifar100"])
    ]
    assert pairs == {place: ["before", "after"] for place in places}
    narrowed = list(expand(artefact, {"scale": scale, "seeds": "3,20"}, {"lr": "1e-2"}).values())
    assert {(cfg.lr, cfg.seed) for cfg in narrowed} == {(1e-2, 3), (1e-2, 20)}


@pytest.mark.slow
def test_one_command_runs_the_two_tasks_of_evaluate_at(tmp_path):
    data = write_fashion_mnist(tmp_path / "data", train=1000)
    arguments = ("evaluate_at", f"runs_dir={tmp_path}", f"data_dir={data}", "num_steps=3", "seeds=1", "lr=1e-2")
    done = call("reproduce.py", *arguments, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "4 runs, 0 done, 4 to do" in done.stdout
    folder = tmp_path / "results" / "mini" / "evaluate_at"
    assert sorted(contents(folder)) == FILES
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [(row["task"], row["lr"], row["seed"]) for row in rows] == [
        ("grokking", "0.01", "1"),
        ("cifar100", "0.01", "1"),
    ]
    assert all(row["before"] and row["after"] for row in rows)
    assert len(list(tmp_path.glob("grokking/*/record.json"))) == len(list(tmp_path.glob("cifar100/*/record.json"))) == 2


@pytest.mark.slow
def test_a_diverged_run_is_in_the_table_and_stops_nothing(tmp_path):
    data = write_fashion_mnist(tmp_path / "data")
    common = (
        f"runs_dir={tmp_path}",
        f"data_dir={data}",
        "task.data.train_size=100",
        "num_steps=40",
        "seeds=1",
        "lr=1e30",
    )
    done = call(
        "reproduce.py", "figure2", *common, "regularizer.warm_start=1x", "regularizer.weight_decay=0", timeout=240
    )
    assert done.returncode == 2  # adamw has no warm_start, and an override must fit every grid
    done = call("reproduce.py", "figure2", *common, timeout=240)
    assert done.returncode == 0, done.stderr
    statuses = [record["status"] for record in records(tmp_path).values()]
    assert statuses.count("diverged") >= 1
    table = (tmp_path / "results" / "mini" / "figure2" / "table.md").read_text()
    assert f"({statuses.count('diverged')} diverged)" in table
    assert "1 diverged" in table


def test_runs_that_diverged_or_failed_are_counted_apart_from_those_that_are_done():
    done = [run("adamw", seed, {"accuracy": 1.0}) for seed in (1, 2)]
    assert ended(done) == "2 done"
    assert ended([*done, run("adamw", 3, None), out_of_memory(done[0])]) == "2 done, 1 diverged, 1 failed"


@pytest.mark.slow
def test_sigterm_stops_every_run_with_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    arguments = (*IN_PAIRS, f"runs_dir={tmp_path}", "num_steps=1000")
    process = start("reproduce.py", *arguments)
    wait_until(lambda: len([log for log in tmp_path.glob("*/*/metrics.jsonl") if log.stat().st_size]) >= 2)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: len(list(tmp_path.glob("*/*/checkpoint.pt"))) >= 2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].startswith("error: grokking stopped with ")
    begun = list(tmp_path.glob("*/*-s*"))
    assert len(begun) == 2  # none was begun after the signal
    assert all(any((folder / name).exists() for name in ("checkpoint.pt", "record.json")) for folder in begun)
    assert not (tmp_path / "results").exists()
    again = call("reproduce.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert len(records(tmp_path)) == METHODS


@pytest.mark.slow
def test_workers_end_with_a_checkpoint_when_their_parent_is_killed(tmp_path):
    arguments = (*IN_PAIRS, f"runs_dir={tmp_path}", "num_steps=4000")
    process = start("reproduce.py", *arguments)
    wait_until(lambda: len([log for log in tmp_path.glob("*/*/metrics.jsonl") if log.stat().st_size]) >= 2)
    workers = [int(lock.read_text().split()[1]) for lock in tmp_path.glob("*/*/.lock")]
    process.kill()
    process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert len(workers) == len(list(tmp_path.glob("*/*/checkpoint.pt"))) == 2
    assert len(list(tmp_path.glob("*/*-s*"))) == 2  # no worker started another run


@pytest.mark.slow
def test_a_killed_worker_is_said_in_one_line_and_replaced(tmp_path):
    process = start(
        "reproduce.py", *GROKKING, f"runs_dir={tmp_path}", "num_steps=200", "task.log_every_steps=8", "jobs=1"
    )
    wait_until(lambda: any(log.stat().st_size for log in tmp_path.glob("*/*/metrics.jsonl")))
    (lock,) = tmp_path.glob("*/*/.lock")
    subprocess.run(["kill", "-9", lock.read_text().split()[1]], check=True)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert said.count("grokking: a worker process was killed") == 1
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"] * METHODS


@pytest.mark.slow
def test_two_sweeps_at_once_train_no_run_twice(tmp_path):
    arguments = (*GROKKING, f"runs_dir={tmp_path}", "num_steps=200", "task.log_every_steps=8", "jobs=1")
    first = start("reproduce.py", *arguments)
    wait_until(lambda: any(log.stat().st_size for log in tmp_path.glob("*/*/metrics.jsonl")))
    second = start("reproduce.py", *arguments)
    for process in (first, second):
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0 or "being trained by other processes" in said
    assert call("reproduce.py", *arguments).returncode == 0
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"] * METHODS
    for log in tmp_path.glob("*/*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if "loss" in json.loads(line)]
        assert steps == list(range(8, 201, 8))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a read-only file system")
def test_a_read_only_results_folder_is_said_before_any_run(tmp_path):
    read_only = tmp_path / "read_only"
    read_only.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", read_only], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        done = call(
            "reproduce.py", *GROKKING, f"runs_dir={tmp_path / 'runs'}", f"results_dir={read_only}", "num_steps=8"
        )
    finally:
        subprocess.run(["umount", read_only], check=True)
    assert done.returncode == 2
    is_one_line(done, "cannot be written", "results_dir=")
    assert not (tmp_path / "runs").exists()


def test_prepare_data_says_what_is_ready():
    done = call("prepare_data.py", "grokking")
    assert done.returncode == 0
    assert done.stdout == "grokking: nothing to download, its data is computed\n"
