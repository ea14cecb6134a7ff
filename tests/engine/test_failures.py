"""Runs and sweeps follow docs/reference/failures.md when something goes wrong, with real files and processes."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, call, call_forked, is_one_line, records, start, wait_until
from omegaconf import DictConfig

from scripts.cli.common import compose_config
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.local import run_all
from scripts.sweep.plan import expand
from scripts.sweep.run_folders import ended_run
from tasks.engine import attempts, checkpoint, errors
from tasks.engine import run as engine
from tasks.engine.config import read_config
from tasks.engine.errors import Held, OutOfMemory, TrainingFailed, Unusable, UserError
from tasks.engine.files import Log, only_process
from tasks.engine.records import note_unusable, read_record, run_folder, run_id, unusable
from tasks.engine.signals import listening, stopping_at_once

RUN = (
    "task=grokking",
    "task.model.width=32",
    "task.batch_size=64",
    "num_steps=24",
    "task.log_every_steps=8",
    "task.eval_every_steps=null",
)


def config(runs_dir: Path, *more: str) -> DictConfig:
    return compose_config([*RUN, "checkpoint_every_steps=8", "quiet=true", f"runs_dir={runs_dir}", *more])


def interrupt_after(cfg: DictConfig, steps: int) -> None:
    """Train and stop after `steps` steps with the files of a killed run."""
    done = 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        if done >= steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(cfg, count)


def test_the_table_of_the_docs_is_that_of_the_code():
    """Compare exit codes, and whether a sweep continues."""
    rows = re.findall(
        r"^\|[^|]*\| `(\w+)` \|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$",
        (ROOT / "docs/reference/failures.md").read_text(),
        re.M,
    )
    assert {name for name, _, _ in rows} == {
        "Diverged",
        "OutOfMemory",
        "Unusable",
        "Held",
        "DiskFull",
        "UserError",
        "Interrupted",
    }
    for name, sweep, code in rows:
        error = getattr(errors, name)
        if name != "Interrupted":
            assert error.exit_code == int(code) and error.ends_sweep == ("stops" in sweep), name


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_failed_after_three_attempts(tmp_path):
    cfg = config(tmp_path, "task.model.width=4000000")
    for attempt in (1, 2):
        with pytest.raises(OutOfMemory, match=f"ran out of memory before its first step, in attempt {attempt} of 3"):
            engine.run(cfg)
    with pytest.raises(TrainingFailed, match="out of memory before its first step, in 3 attempts"):
        engine.run(cfg)
    assert [record["status"] for record in records(tmp_path).values()] == ["failed"]
    assert ended_run(run_folder(cfg)).metrics == []  # as a table reads it
    shown = call_forked("show.py", str(run_folder(cfg)))
    assert shown.returncode == 0 and "out of memory before its first step" in shown.stdout, shown.stderr
    assert call_forked("compare.py", *[str(run_folder(cfg))] * 2).returncode == 0


@pytest.mark.weekly
def test_a_sweep_with_a_model_that_does_not_fit_trains_the_others_and_ends(tmp_path):
    run_all([config(tmp_path, "task.model.width=4000000"), config(tmp_path, "seed=2")], 2, "a sweep")
    assert sorted(record["status"] for record in records(tmp_path).values()) == ["failed", "finished"]


UNUSABLE = ["another format", "a folder for a checkpoint", "a folder for starts.jsonl", "a folder for metrics.jsonl"]


@pytest.mark.parametrize("damage", UNUSABLE)
def test_one_unusable_run_is_said_and_the_others_are_trained(tmp_path, damage, capfd):
    bad, good = config(tmp_path), config(tmp_path, "seed=2")
    interrupt_after(bad, 10)
    folder = run_folder(bad)
    if damage == "another format":
        content = checkpoint.read(folder / "checkpoint.pt")
        checkpoint.save(folder, run_id(bad), content)
        import torch

        torch.save(content | {"format": 99}, folder / "checkpoint.pt")
    else:
        name = damage.removeprefix("a folder for ").replace("a checkpoint", "checkpoint.pt")
        os.rename(folder / name, folder / f"{name}.kept")
        (folder / name).mkdir()
    with pytest.raises(
        UserError, match="1 of 2 runs cannot be trained, the others have ended: .*" + re.escape(str(folder))
    ):
        run_all([bad, good], 1, "a sweep")
    assert set(records(tmp_path)) == {run_id(good)}
    assert str(folder) in capfd.readouterr().err
    assert str(folder) in str(unusable(folder))
    done = call_forked("retry.py", str(folder), "--yes")
    assert done.returncode == 0 and "its last whole checkpoint, or from step 0" in done.stdout, done.stderr
    assert engine.run(bad)["status"] == "finished"
    assert unusable(folder) is None
    resumed = [attempt.step for attempt in attempts.history(folder) if attempt.step is not None][-1]
    assert resumed == (8 if damage in ("another format", "a folder for starts.jsonl") else 0)


def test_status_and_dry_run_name_an_unusable_run_with_its_reason(tmp_path):
    cfg = next(
        iter(expand(load_artefact("grokking"), {"scale": "mini", "seeds": "1"}, {"runs_dir": str(tmp_path)}).values())
    )
    run_folder(cfg).mkdir(parents=True)
    note_unusable(run_folder(cfg), "checkpoint.pt is a folder")
    asked = ("grokking", "seeds=1", f"runs_dir={tmp_path}")
    (line,) = [line for line in call_forked("status.py", *asked).stdout.splitlines() if line.startswith("unusable")]
    assert run_id(cfg) in line and "checkpoint.pt is a folder" in line
    assert "try again: checkpoint.pt is a folder" in call_forked("reproduce.py", *asked, "--dry-run").stdout


def test_a_flipped_byte_in_starts_jsonl_costs_nothing(tmp_path):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    path = run_folder(cfg) / attempts.NAME
    content = bytearray(path.read_bytes())
    content[3] ^= 0x80
    path.write_bytes(content)
    assert engine.run(cfg)["status"] == "finished"


def test_a_checkpoint_that_cannot_be_read_is_no_damage(tmp_path, monkeypatch):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    real = checkpoint.zipfile.ZipFile

    def broken(path: Any, *rest: Any) -> Any:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(checkpoint.zipfile, "ZipFile", broken)
    with pytest.raises(Unusable, match=r"checkpoint\.pt cannot be read: Input/output error"):
        engine.run(cfg)
    monkeypatch.setattr(checkpoint.zipfile, "ZipFile", real)
    assert not list(run_folder(cfg).glob("*.damaged"))
    engine.run(cfg)
    assert [attempt.step for attempt in attempts.history(run_folder(cfg))] == [0, None, 8]


def test_a_final_metric_that_is_not_finite_is_a_divergence_and_its_files_are_json(tmp_path, monkeypatch):
    from tasks.engine.training import Training

    monkeypatch.setattr(
        Training, "_evaluate", lambda self, last=False: {"validation_loss": float("nan"), "validation_accuracy": 1.0}
    )
    cfg = config(tmp_path)
    with pytest.raises(TrainingFailed, match="final metric validation_loss is nan"):
        engine.run(cfg)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    for path in run_folder(cfg).glob("*.json*"):
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize(
    "older, reason",
    [
        ({"metrics": {"validation_loss": float("nan")}}, "final metric validation_loss is nan"),
        ({"status": "failed", "reason": "final metric ppl is inf", "metrics": {}}, "final metric ppl is inf"),
        (
            {"status": "failed", "reason": "loss is nan between steps 1 and 8", "metrics": {}},
            "loss is nan between steps 1 and 8",
        ),
    ],
)
def test_records_of_older_versions_are_read_as_diverged_where_a_number_is_not_finite(tmp_path, older, reason):
    from tasks.engine.records import _digest

    cfg = config(tmp_path)
    record = engine.run(cfg)
    changed = {key: value for key, value in record.items() if key != "checksum"} | older
    (run_folder(cfg) / "record.json").write_text(json.dumps(changed | {"checksum": _digest(changed)}))
    found = read_record(run_folder(cfg))
    assert found is not None and (found["status"], found["reason"]) == ("diverged", reason)


def test_a_finished_run_whose_log_was_cut_is_done_again(tmp_path, capfd):
    cfg = config(tmp_path)
    first = engine.run(cfg)
    os.truncate(run_folder(cfg) / "metrics.jsonl", 10)
    assert engine.run(cfg)["state_sha256"] == first["state_sha256"]
    assert "metrics.jsonl is damaged: it does not match the run's record" in capfd.readouterr().err


def test_a_lock_that_is_deleted_under_a_run_stops_it_before_it_writes_again(tmp_path):
    cfg = config(tmp_path)
    folder, steps = run_folder(cfg), 0

    def delete(number: int) -> None:
        nonlocal steps
        steps += number
        if steps == 10:
            (folder / ".lock").unlink()
            with only_process(folder):  # a second process gets this lock
                pass

    with pytest.raises(Unusable, match=r"\.lock is no longer this process's lock"):
        engine.run(cfg, delete)
    content = checkpoint.read(folder / "checkpoint.pt")
    assert content is not None and content["step"] == 8
    assert not records(tmp_path)


def test_a_lock_that_another_process_overwrites_is_lost(tmp_path):
    with only_process(tmp_path) as lock:
        lock.check()
        (tmp_path / ".lock").write_text("process 1 on another machine")  # a file system without locks
        with pytest.raises(Unusable, match="another process took over the run"):
            lock.check()


def test_lines_of_another_process_in_a_log_are_noticed(tmp_path):
    log = Log(tmp_path / "metrics.jsonl")
    log.append({"step": 8, "loss": 1.0})
    log.check()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step":8,"loss":2.0}\n')
    with pytest.raises(Unusable, match="holds lines of another process"):
        log.check()
    log.cut((0, ""))
    for step in (16, 8):
        log.append({"step": step})
    with pytest.raises(Unusable, match="holds lines of another process"):
        log.check()


def test_a_runs_folder_that_is_renamed_under_a_run_is_one_line(tmp_path):
    process = start("train.py", *RUN, "num_steps=100000", "checkpoint_every_steps=8", f"runs_dir={tmp_path / 'runs'}")
    wait_until(lambda: list((tmp_path / "runs").glob("*/*/checkpoint.pt")))
    os.rename(tmp_path / "runs", tmp_path / "elsewhere")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert [line for line in said.splitlines() if "error:" in line] == [said.strip().splitlines()[-1]]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "key", ["regularizer.name=../../x", "regularizer.name=.x", "task.name=../x", "regularizer.name=''"]
)
def test_a_name_that_would_leave_its_folder_is_refused(tmp_path, key):
    done = call("train.py", *RUN, f"runs_dir={tmp_path / 'runs'}", key)
    assert done.returncode == 2
    is_one_line(done, key.partition("=")[0], "it names a folder")
    assert not (tmp_path / "runs").exists()


def test_an_artefact_is_a_name_and_no_path():
    for name in ("../task/grokking", "./figure2", "figure2.yaml"):
        done = call("reproduce.py", name)
        assert done.returncode == 2
        is_one_line(done, "is unknown")


@pytest.mark.slow
def test_a_sweep_looks_again_at_what_another_process_trained(tmp_path):
    """Two sweeps run at once. The one that ends last has all runs."""
    cfg = config(tmp_path)
    run_folder(cfg).mkdir(parents=True)
    with only_process(run_folder(cfg)), pytest.raises(Held, match="1 of 2 runs are being trained by other processes"):
        run_all([cfg, config(tmp_path, "seed=2")], 1, "a sweep")
    assert len(records(tmp_path)) == 1
    run_all([cfg, config(tmp_path, "seed=2")], 1, "a sweep")
    assert len(records(tmp_path)) == 2


class BrokenRun:
    """A stand-in for the result of wandb.init after its helper process was killed."""

    id = "a run"

    def log(self, *_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    finish = log


def test_without_wandb_s_helper_training_goes_on_with_one_warning(tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "init", lambda **_: BrokenRun())
    assert engine.run(config(tmp_path, "logging=wandb"))["status"] == "finished"
    assert capfd.readouterr().err.count("wandb fails") == 1


@pytest.mark.parametrize("block", [listening, lambda: stopping_at_once("a run")])
def test_a_fork_of_a_run_ends_as_its_pool_expects(block):
    """A library's pool ends its workers with SIGTERM, perhaps at once, and waits for them."""
    with block() as requests:
        for _ in range(50):
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            worker.start()
            worker.terminate()
            worker.join(30)
            ended, _ = worker.exitcode, worker.kill()
            assert ended == -signal.SIGTERM
        assert requests is None or requests.stop is None


def test_a_copy_of_a_run_s_folder_is_refused_by_its_name(tmp_path):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    other = config(tmp_path, "seed=2")
    shutil.copytree(run_folder(cfg), run_folder(other))
    with pytest.raises(Unusable, match="belongs to run"):
        engine.run(other)


def test_an_error_that_ends_a_sweep_ends_its_workers_too(tmp_path):
    """A waiting worker holds the lock of the pool's queue. Killing it would leave the others waiting."""
    broken = [
        config(tmp_path, f"seed={seed}", "task=gpt2", "task.model.heads=4", f"data_dir={tmp_path / 'no data'}")
        for seed in (1, 2, 3, 4)
    ]
    with pytest.raises(UserError, match=r"^adamcpr_ip-s\d-[0-9a-f]{12}: .*is not in"):
        run_all(broken, 2, "a sweep")


@pytest.mark.parametrize("of_an_older_version", [False, True])
def test_cpu_time_is_counted_over_all_starts_of_a_run(tmp_path, of_an_older_version):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    folder = run_folder(cfg)
    saved = checkpoint.read(folder / checkpoint.NAME)
    assert saved is not None and 0 < saved["cpu_seconds"] < 1.1 * saved["seconds"]
    known = {key: value for key, value in saved.items() if key != "cpu_seconds"} | {"seconds": 100.0}
    checkpoint.save(folder, folder.name, known if of_an_older_version else known | {"cpu_seconds": 60.0})
    record = engine.run(cfg)
    before = 100.0 if of_an_older_version else 60.0
    assert before < record["cpu_seconds"] < before + 30 and record["seconds"] > 100


@pytest.mark.slow
def test_a_controller_that_is_away_is_asked_again_with_a_growing_pause(tmp_path, monkeypatch, capfd):
    """squeue fails at first and answers later, as after a restart of slurmctld."""
    from scripts.sweep import watch

    cfg = config(tmp_path / "runs")
    engine.run(cfg)
    (tmp_path / "runs" / "slurm").mkdir()
    squeue, calls = tmp_path / "squeue", tmp_path / "calls"
    squeue.write_text(
        f"#!/bin/sh\necho x >> {calls}\n[ $(wc -l < {calls}) -gt 3 ] && exit 0\necho 'Unable to contact slurm controller' >&2\nexit 1\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(watch, "POLL_SECONDS", 1)
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 5)
    watch.wait_for([cfg], "a sweep")
    said = re.findall(r"Unable to contact slurm controller; asking again in ([\d.]+) s", capfd.readouterr().err)
    assert said == ["2", "4", "5"]


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ([], "set micro_batch=32 or gpus=2,"),
        (["gpus=4"], "set micro_batch=8 or gpus=8,"),
        (["gpus=2", "micro_batch=8"], "set micro_batch=4 or gpus=4,"),
        (["gpus=2", "micro_batch=64"], "set micro_batch=16 or gpus=4,"),  # half of the share, not of micro_batch
        (["gpus=64"], "free some"),
        (["gpus=32", "micro_batch=1"], "set gpus=64,"),
    ],
)
def test_too_little_memory_advises_keys_that_keep_the_protocol(tmp_path, settings, advice):
    from tasks.engine.memory import less_memory

    base = config(tmp_path, "task.batch_size=64")
    cfg = config(tmp_path, "task.batch_size=64", *settings)
    assert less_memory(read_config(cfg)).startswith(advice)
    advised = [word for word in advice.rstrip(",").split() if "=" in word]
    assert all(run_id(config(tmp_path, "task.batch_size=64", word)) == run_id(base) for word in advised)


@pytest.mark.parametrize(
    ("settings", "known", "advice"),
    [
        (["task=gpt2"], {"built": False}, "set parallel=fsdp gpus=2,"),  # its activations are not what is too large
        (["task=cifar100", "device=cuda"], {"pieces": False}, "set gpus=2,"),
        (["task=cifar100"], {"pieces": False}, "free some"),  # several CPUs don't synchronize batch normalization
        (["task=segmentation"], {"built": False}, "free some"),  # nnU-Net has one process
    ],
)
def test_advice_for_memory_is_never_refused_by_the_run(settings, known, advice):
    from tasks.engine.memory import less_memory

    cfg = compose_config([*settings, "task.batch_size=64"])
    assert less_memory(read_config(cfg), **known).startswith(advice)


def test_the_folder_of_submissions_is_its_owner_s_alone(tmp_path):
    from scripts.sweep.queue import own_folder

    assert own_folder(tmp_path).stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(tmp_path / "slurm", 12345, 12345)
        with pytest.raises(UserError, match="belongs to user 12345"):
            own_folder(tmp_path)


def test_a_job_that_is_asked_for_its_checkpoint_when_it_starts_is_refused(tmp_path, monkeypatch):
    from scripts.sweep import slurm

    monkeypatch.setattr(slurm.shutil, "which", lambda _: "/usr/bin/sbatch")
    cfg = config(tmp_path, "launcher=slurm", "launcher.time=1", "launcher.grace_seconds=120")
    with pytest.raises(
        UserError, match=r"launcher\.grace_seconds=120 must be at most half of launcher\.time=1 minutes"
    ):
        slurm.submit([cfg], "a sweep")
    cfg.launcher.time = "soon"
    with pytest.raises(UserError, match=r"launcher\.time=soon must be minutes, or like"):
        slurm.submit([cfg], "a sweep")
