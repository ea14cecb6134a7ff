"""Every start, record and table says which code, kernel, data and machine made a run."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from commands import call, is_one_line, records, write_fashion_mnist, write_tokens
from made_runs import run as made_run
from test_failures import config, interrupt_after

from results import Run
from results.code import code_remark
from tasks.engine import attempts, code, environment, verified
from tasks.engine import run as engine
from tasks.engine.config import SmallModel
from tasks.engine.errors import UserError
from tasks.engine.kept import trained
from tasks.engine.records import read_record, run_folder
from tasks.engine.workload import Workload


def small_training() -> tuple[Workload, torch.optim.Optimizer]:
    """One weight, drawn towards 0."""
    model = torch.nn.Linear(1, 1)
    loss = lambda model, batch: model(batch).square().mean()  # noqa: E731
    workload = Workload(model, lambda step: torch.ones(2, 1), loss, lambda model: {}, metric=None)
    return workload, torch.optim.SGD(model.parameters())


def under(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    """Make the code look like another commit from now on."""
    for module in (environment, engine):
        monkeypatch.setattr(module, "git_commit", lambda: commit)


def test_every_start_and_the_record_say_what_trains(tmp_path, monkeypatch):
    under(monkeypatch, "a" * 12)
    cfg = config(tmp_path)
    record = engine.run(cfg)
    (attempt,) = attempts.history(run_folder(cfg))
    assert attempt.state == {key: record[key] for key in ("git_commit", "versions", "hardware", "kernel", "data")}
    assert record["states"] == [{"from": 0} | attempt.state]
    assert record["git_commit"] == "a" * 12 and record["kernel"] == "cpu" and record["data"] is None


def test_a_commit_made_while_a_run_trains_is_not_in_its_record(tmp_path, monkeypatch):
    asked = []

    def answer() -> str:
        asked.append(1)
        return "before"

    code.git_commit.cache_clear()
    monkeypatch.setattr(code, "_git", lambda *arguments: answer() if arguments[0] == "rev-parse" else "")
    record = engine.run(config(tmp_path), lambda _: monkeypatch.setattr(code, "_git", lambda *_: "after"))
    code.git_commit.cache_clear()
    assert record["git_commit"] == "before" and record["states"][0]["git_commit"] == "before"


def test_a_run_that_goes_on_under_other_code_says_so_and_is_marked(tmp_path, monkeypatch, capfd):
    cfg = config(tmp_path)
    under(monkeypatch, "first")
    interrupt_after(cfg, 10)
    under(monkeypatch, "second")
    with pytest.raises(
        UserError, match=r"trained to step 8 under another state \(code first -> second\); strict=true refuses"
    ):
        engine.run(config(tmp_path, "strict=true"))
    record = engine.run(cfg)
    assert "resumes at step 8 under another state: code first -> second" in capfd.readouterr().err
    assert [(state["from"], state["git_commit"]) for state in record["states"]] == [(0, "first"), (8, "second")]
    assert read_record(run_folder(cfg)) == {key: value for key, value in record.items() if key != "checksum"}


def test_an_interruption_alone_is_no_other_state(tmp_path, capfd):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    record = engine.run(config(tmp_path, "strict=true"))
    assert len(record["states"]) == 1
    assert "another state" not in capfd.readouterr().err


def test_another_kernel_is_another_state(tmp_path, monkeypatch, capfd):
    cfg = config(tmp_path)
    interrupt_after(cfg, 10)
    monkeypatch.setattr("cpr.kernels.build.load", lambda *_: False)  # no compiler on this node
    record = engine.run(cfg)
    assert "kernel cpu -> eager" in capfd.readouterr().err
    assert [state["kernel"] for state in record["states"]] == ["cpu", "eager"]


def test_a_table_over_runs_of_several_states_says_so(tmp_path):
    def of(seed: int, *states: dict[str, str]) -> Run:
        one = made_run("adamcpr_ip", seed, {"accuracy": 1.0})
        return Run(one.config, one.record | {"states": [{"from": 8 * k} | state for k, state in enumerate(states)]})

    usual = {"git_commit": "c", "kernel": "cpu", "data": "d"}
    same = [of(seed, usual) for seed in (1, 2, 3)]
    assert code_remark(same) == ""
    assert (
        code_remark([*same, of(4, usual | {"kernel": "eager"})])
        == "The runs of a_task have different kernels: 3 of cpu, 1 of eager."
    )
    assert (
        code_remark([*same, of(4, usual | {"data": "e"})]) == "The runs of a_task have different data: 3 of d, 1 of e."
    )
    moved = code_remark([*same, of(4, usual, usual | {"git_commit": "e"})])
    assert "The runs are of 2 states of this repository: 3 of c, 1 of c then e." in moved
    assert "1 of 4 runs went on under another code, machine, kernel or data than they began with." in moved


def test_a_repository_of_another_user_has_its_commit(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("needs root to give a folder to another user")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(tmp_path), *names, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 12345, 12345)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    assert len(str(code.head())) == 40


def test_damaged_tokens_are_refused_before_they_are_trained_on(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(8000))
    known = verified.digests(tmp_path, ["a.bin"], "mend it")
    digest = verified.verify(tmp_path, known, "mend it")
    with open(tmp_path / "a.bin", "r+b") as file:
        file.seek(1000)
        file.write(b"x" * 4000)
    with pytest.raises(
        UserError, match=r"a\.bin is damaged: its SHA-256 is not the recorded one; delete it, then mend it"
    ):
        verified.verify(tmp_path, known, "mend it")
    (tmp_path / "a.bin").write_bytes(bytes(8000))
    assert verified.verify(tmp_path, known, "mend it") == digest


def test_a_whole_file_is_read_once_for_each_time_of_change(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"content")
    known = verified.digests(tmp_path, ["a.bin"], "")
    assert json.loads((tmp_path / verified.CHECKED).read_bytes()).keys() == {"a.bin"}
    monkeypatch.setattr(verified, "_checked", {})  # as if in another process
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("it was read again"))
    verified.verify(tmp_path, known, "")


def test_a_folder_that_cannot_be_written_is_verified_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"content")

    def refuse(path: Path, _: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(verified, "write_bytes_atomically", refuse)
    known = verified.digests(tmp_path, ["a.bin"], "")
    assert verified.verify(tmp_path, known, "")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a read-only file system")
def test_data_on_a_read_only_disk_is_trained_on_and_what_is_missing_is_one_line(tmp_path):
    disk, runs_dir = tmp_path / "disk", tmp_path / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        write_fashion_mnist(disk)
        write_tokens(disk, "OpenWebText", 50257)
        small_model = SmallModel(batch_size=2, steps=1, lr=0.1, weight_decay=0, warmup_steps=0, seed=0)
        weights = trained(disk / "small.pt", small_model, small_training, final_factor=0, quiet=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert torch.equal(
            trained(disk / "small.pt", small_model, lambda: pytest.fail("it was made again"), 0, quiet=True)["weight"],
            weights["weight"],
        )
        small = ("num_steps=2", "task.log_every_steps=1", "quiet=true", f"data_dir={disk}", f"runs_dir={runs_dir}")
        images = ("task=cifar100", "scale=mini", "task.batch_size=8", "task.data.train_size=200")
        text = (
            "task=gpt2",
            "scale=mini",
            "task.data.name=OpenWebText",
            "task.data.vocabulary=50257",
            "task.model.vocabulary=50257",
            "task.batch_size=2",
        )
        for task in (images, text):
            done = call("train.py", *task, *small)
            assert done.returncode == 0, done.stderr
        missing = call("prepare_data.py", "cifar100", "dataset=FashionMNIST", f"data_dir={disk}")
        is_one_line(missing, "FashionMNIST cannot be prepared", "Read-only file system")  # these images are made up
        assert missing.returncode == 2
    finally:
        subprocess.run(["umount", disk], check=True)
    assert [record["status"] for record in records(runs_dir).values()] == ["finished"] * 2
