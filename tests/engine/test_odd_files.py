"""Anything in the place of a run's files is reported in one line. Other runs continue, and retry.py fixes it."""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import ROOT, call_forked, command, is_one_line, records, start
from omegaconf import OmegaConf
from test_failures import config, interrupt_after

from scripts.sweep.local import run_all
from tasks.engine import attempts, environment, verified
from tasks.engine import run as engine
from tasks.engine.errors import Unusable, UserError
from tasks.engine.records import _digest, read_record, run_folder, run_id, unusable
from tasks.engine.run import FILES

LINES = [
    '{"start": 5, "state": "abc"}', '{"start": 5, "state": [1]}', '{"start": true}', '{"start": -1}', "[" * 100_000, "7", "null",
    '{"start": 15, "state": {"from": 999}}', '{"end": "x"}', '{"begin": 5}', '{"start": "5"}',
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_an_odd_line_in_starts_jsonl_costs_nothing(tmp_path, line):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    with open(run_folder(cfg) / attempts.NAME, "a") as file:
        file.write(line + "\n")
    record = engine.run(cfg)
    assert record["status"] == "finished" and [state["from"] for state in record["states"]] == [0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["a pipe", "a broken link", "a link to itself"])
def test_what_is_no_file_is_said_and_retry_mends_it(tmp_path, name, what):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    path = run_folder(cfg) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if what == "a pipe" else os.symlink("nowhere" if what == "a broken link" else path.name, path)
    with pytest.raises(Unusable, match=f"{name} is not a regular file"):
        engine.run(cfg)
    done = call_forked("retry.py", str(run_folder(cfg)), "--yes")
    assert done.returncode == 0, done.stderr
    assert engine.run(cfg)["status"] == "finished"


@pytest.mark.parametrize("what", ["a file", "a link to itself"])
def test_what_stands_in_the_place_of_a_run_s_folder_is_one_run_s_trouble(tmp_path, what):
    bad, good = config(tmp_path), config(tmp_path, "seed=2")
    folder = run_folder(bad)
    folder.parent.mkdir(parents=True)
    folder.write_text("") if what == "a file" else os.symlink(folder.name, folder)
    with pytest.raises(UserError, match=r"1 of 2 runs cannot be trained, the others have ended: .* is not a folder"):
        run_all([bad, good], 1, "a sweep")
    assert set(records(tmp_path)) == {run_id(good)}
    assert call_forked("status.py", "grokking", f"runs_dir={tmp_path}").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to protect a file")
def test_a_log_that_cannot_be_written_is_said_with_its_name(tmp_path):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    log = run_folder(cfg) / "metrics.jsonl"
    if subprocess.run(["chattr", "+a", log], capture_output=True).returncode:
        pytest.skip("this file system has no attributes")
    try:
        with pytest.raises(Unusable, match=r"metrics\.jsonl: Operation not permitted"):
            engine.run(cfg)
    finally:
        subprocess.run(["chattr", "-a", log], check=True)


SHAPES = [
    {"metrics": None}, {"metrics": [1]}, {"metrics": {"a": None}}, {"status": "x"}, {"run_id": None}, {"files": []},
    {"files": {"../../../../etc/passwd": "x"}}, {"hardware": "a"},
]  # fmt: skip


@pytest.mark.parametrize("change", SHAPES, ids=range(len(SHAPES)))
def test_a_record_of_another_shape_is_damaged_and_the_run_is_done_again(tmp_path, change, capfd):
    cfg = config(tmp_path)
    record = engine.run(cfg)
    changed = {key: value for key, value in record.items() if key != "checksum"} | change
    (run_folder(cfg) / "record.json").write_text(json.dumps(changed | {"checksum": _digest(changed)}))
    assert engine.run(cfg)["state_sha256"] == record["state_sha256"]
    assert f"its {next(iter(change))} is not what a record has" in capfd.readouterr().err
    (run_folder(cfg) / "record.json").write_text("[" * 100_000)
    assert engine.run(cfg)["status"] == "finished"


@pytest.mark.parametrize("loss", ["starts.jsonl is gone", "a byte of it is flipped"])
def test_the_states_of_a_run_do_not_hang_on_its_list_of_starts(tmp_path, monkeypatch, loss):
    for module in (environment, engine):
        monkeypatch.setattr(module, "git_commit", lambda: "first")
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    path = run_folder(cfg) / attempts.NAME
    if loss == "starts.jsonl is gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b'"start"', b'"stbrt"'))
    for module in (environment, engine):
        monkeypatch.setattr(module, "git_commit", lambda: "second")
    with pytest.raises(UserError, match="code first -> second"):
        engine.run(OmegaConf.merge(cfg, {"strict": True}))
    assert [(state["from"], state["git_commit"]) for state in engine.run(cfg)["states"]] == [
        (0, "first"),
        (8, "second"),
    ]


def test_steps_of_an_unknown_state_are_said_to_be_of_one():
    assert attempts.taken_up([], 8, {"git_commit": "a"}) == [{"from": 0}, {"from": 8, "git_commit": "a"}]
    assert environment.differences({"from": 0}, {"git_commit": "a"}) == ["what trained it so far is unknown"]


@pytest.mark.weekly
def test_different_changes_are_different_states(tmp_path):
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a", *arguments],
            check=True,
            capture_output=True,
        )

    (tmp_path / "tasks" / "engine").mkdir(parents=True)
    code = tmp_path / "tasks" / "engine" / "environment.py"
    code.write_text(environment_source := Path(environment.__file__).read_text())
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "a")

    def state() -> str:
        done = subprocess.run(
            [*command("train.py")[:1], "-c", f"import runpy; print(runpy.run_path({str(code)!r})['git_commit']())"],
            capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    clean = state()
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    code.write_text(environment_source + "# one\n")
    one = state()
    code.write_text(environment_source + "# two\n")
    two = state()
    code.write_text(environment_source)
    (tmp_path / "tasks" / "new.py").write_text("")
    assert len({clean, one, two, state()}) == 4
    assert all(re.fullmatch(clean + r"-dirty-[0-9a-f]{8}", found) for found in (one, two, state()))


@pytest.mark.parametrize("content", ["[]", "", "{}", "[" * 100_000])
def test_a_damaged_list_of_checksums_does_not_turn_verification_off(tmp_path, content):
    (tmp_path / verified.KNOWN).write_text(content)
    with pytest.raises(UserError, match=r"checksums\.json is damaged"):
        verified.verify_remembered(tmp_path, None, "mend it")


@pytest.mark.parametrize("entry", [5, True, {}, [1, 2], ["a", "b", "c"], None])
def test_a_damaged_note_of_the_last_check_is_not_believed(tmp_path, entry):
    (tmp_path / "a.bin").write_bytes(b"content")
    (tmp_path / verified.CHECKED).write_text(json.dumps({"a.bin": entry}))
    assert verified.digests(tmp_path, ["a.bin"], "") == {"a.bin": hashlib.sha256(b"content").hexdigest()}
    about = (tmp_path / "a.bin").stat()
    (tmp_path / verified.CHECKED).write_text(json.dumps({"a.bin": [about.st_size, about.st_mtime_ns, "0" * 64]}))
    verified._checked.clear()
    verified.verify(tmp_path, {"a.bin": hashlib.sha256(b"content").hexdigest()}, "mend it")


def test_an_error_without_a_line_of_its_own_is_one_run_s(tmp_path, monkeypatch, capfd):
    """A model of width 36 has a bug, in the workers that the sweep starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "from torch import nn\n"
        "class Embedding(nn.Embedding):\n"
        "    def __init__(self, count, width):\n"
        "        super().__init__(count, width if width != 36 else 1 // 0)\n"
        "nn.Embedding = Embedding\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    bad = config(tmp_path, "task.model.width=36")
    with pytest.raises(UserError, match=r"1 of 2 runs cannot be trained, .*; its traceback is in the sweep's output"):
        run_all([bad, config(tmp_path, "seed=2")], 1, "a sweep")
    assert len(records(tmp_path)) == 1 and unusable(run_folder(bad)) is not None
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1])
def test_a_signal_while_a_command_imports_is_one_line(tmp_path, number):
    process = start(
        "train.py", "task=grokking", "num_steps=8", "task.model.width=32", "task.batch_size=64", f"runs_dir={tmp_path}"
    )
    time.sleep(0.4)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGUSR1:
        assert process.returncode == 0, said
    else:
        assert process.returncode == 128 + number and said == "error: interrupted before anything was begun\n"


@pytest.mark.parametrize(
    "setting",
    [
        "time=null",
        "time=1:2:3:4",
        "time=inf",
        "grace_seconds=x",
        "runs_per_job=0",
        "runs_per_job=-1",
        "gpus=x",
    ],
)
def test_a_cluster_s_settings_are_checked(tmp_path, setting, monkeypatch):
    from scripts.sweep import slurm

    monkeypatch.setattr(slurm.shutil, "which", lambda _: "/usr/bin/sbatch")
    with pytest.raises(UserError, match=f"launcher.{setting.partition('=')[0]}="):
        slurm.submit([config(tmp_path, "launcher=slurm", f"launcher.{setting}")], "a sweep")


def test_names_of_data_and_of_tasks_cannot_leave_their_folders(tmp_path):
    for arguments in (
        ("train.py", "task=gpt2", "task.data.name=../../x"),
        ("status.py", "grokking", "regularizer.name=../../y"),
    ):
        done = call_forked(*arguments, f"runs_dir={tmp_path}")
        assert done.returncode == 2
        is_one_line(done, "it names a folder")
    for name in ("../task/cifar100", "a" * 300):
        done = call_forked("prepare_data.py", name)
        assert done.returncode == 2
        is_one_line(done, f"task {name!r} is unknown; ")
    done = call_forked("show.py", "**", f"runs_dir={tmp_path}")
    is_one_line(done, "is neither a folder nor")


def test_the_record_says_one_state_for_an_uninterrupted_run(tmp_path):
    record = engine.run(config(tmp_path))
    assert [state["from"] for state in record["states"]] == [0]
    assert read_record(run_folder(config(tmp_path))) is not None
