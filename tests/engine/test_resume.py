"""The end of a run does not depend on how often it was interrupted. Processes and kills are real."""

import json
import pickle
import re
import signal
from pathlib import Path

import pytest
from commands import call, records, start, wait_until, write_fashion_mnist
from kills import killed_runs_end_the_same, last_logged, only_folder, same_end

from tasks.engine.errors import Interrupted

GROKKING = ("task=grokking", "quiet=true")


def train(runs_dir: Path, *overrides: str) -> None:
    done = call("train.py", *GROKKING, f"runs_dir={runs_dir}", *overrides)
    assert done.returncode == 0, done.stderr


WS = ("regularizer=adamcpr_ws", "regularizer.warm_start=30")
IP = ("regularizer=adamcpr_ip", "regularizer.reg_step_size=5")
SHORT = ("num_steps=60", "task.eval_every_steps=20", "task.log_every_steps=10", "checkpoint_every_steps=7")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    "regularizer", [pytest.param(WS, id="WS"), pytest.param(IP, id="IP", marks=pytest.mark.weekly)]
)
def test_killed_runs_end_with_the_same_bits(tmp_path, regularizer):
    killed_runs_end_the_same(tmp_path, *GROKKING, *regularizer, *SHORT)


@pytest.mark.slow
@pytest.mark.weekly
def test_killed_runs_with_batch_norm_and_augmentation_end_with_the_same_bits(tmp_path, data):
    killed_runs_end_the_same(
        tmp_path, "task=cifar100", "quiet=true", f"data_dir={data}", "task.data.train_size=300", *IP, *SHORT
    )


@pytest.mark.slow
def test_sigusr1_writes_a_checkpoint_and_sigterm_writes_one_and_stops(tmp_path):
    arguments = (*GROKKING, *WS, "num_steps=400", "task.log_every_steps=10", "task.eval_every_steps=null")
    assert call("train.py", *arguments, f"runs_dir={tmp_path / 'undisturbed'}").returncode == 0
    disturbed = tmp_path / "disturbed"
    process = start("train.py", *arguments, f"runs_dir={disturbed}")
    wait_until(lambda: last_logged(disturbed) >= 10)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: list(disturbed.glob("*/*/checkpoint.pt")))
    went_on_from = last_logged(disturbed)
    wait_until(lambda: last_logged(disturbed) > went_on_from)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert len(said.splitlines()) == 1 and "run the same command to resume" in said
    assert not records(disturbed)
    assert call("train.py", *arguments, f"runs_dir={disturbed}").returncode == 0
    same_end(tmp_path / "undisturbed", disturbed)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_and_a_damaged_record_is(tmp_path):
    arguments = ("regularizer=adamw", "num_steps=10")
    train(tmp_path, *arguments)
    path = only_folder(tmp_path) / "record.json"
    first = path.read_bytes()
    train(tmp_path, *arguments)
    assert path.read_bytes() == first
    flipped = bytearray(first)
    flipped[first.index(b"validation_accuracy") + 23] ^= 1
    path.write_bytes(flipped)
    again = call("train.py", *GROKKING, f"runs_dir={tmp_path}", *arguments)
    assert again.returncode == 0
    assert "damaged" in again.stderr
    assert json.loads(path.read_text())["metrics"] == json.loads(first)["metrics"]


@pytest.mark.slow
def test_a_truncated_checkpoint_is_said_and_the_run_ends_with_the_same_bits(tmp_path):
    arguments = ("regularizer=adamcpr_ip", "regularizer.reg_step_size=5", "num_steps=30", "checkpoint_every_steps=10")
    train(tmp_path / "a", *arguments)
    train(tmp_path / "b", *arguments)
    folder = only_folder(tmp_path / "b")
    (folder / "record.json").unlink()
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    again = call("train.py", *GROKKING, f"runs_dir={tmp_path / 'b'}", *arguments)
    assert again.returncode == 0
    assert re.search(r"checkpoint\.pt is damaged .*: step 0$", again.stderr, re.MULTILINE)
    same_end(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "dynamics.jsonl"])
def test_a_damaged_log_is_said_and_the_run_is_done_again_to_the_same_bits(tmp_path, name):
    """The last checkpoint depends on the damaged log. Resuming from it would put a wrong number in the record."""
    arguments = ("regularizer=adamcpr_ip", "regularizer.reg_step_size=5", "num_steps=30", "task.log_every_steps=10")
    train(tmp_path / "a", *arguments)
    train(tmp_path / "b", *arguments)
    folder = only_folder(tmp_path / "b")
    content = bytearray((folder / name).read_bytes())
    content[content.index(b".") + 1] ^= 1  # in the first line with a number
    (folder / name).write_bytes(content)
    (folder / "record.json").unlink()
    again = call("train.py", *GROKKING, f"runs_dir={tmp_path / 'b'}", *arguments)
    assert again.returncode == 0
    assert "the logs in" in again.stderr and "are damaged" in again.stderr
    same_end(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    arguments = ("regularizer=adamw", "num_steps=2000")
    first = start("train.py", *GROKKING, f"runs_dir={tmp_path}", *arguments)
    wait_until(lambda: list(tmp_path.glob("grokking/*/metrics.jsonl")))
    second = call("train.py", *GROKKING, f"runs_dir={tmp_path}", *arguments)
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 128 + signal.SIGTERM
    assert second.returncode == 2
    assert "is being trained by process" in second.stderr
    assert list(tmp_path.glob("grokking/*/checkpoint.pt"))


def test_an_interruption_crosses_from_a_worker_process_whole():
    error = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM, "stopped at step 3")))
    assert str(error) == "stopped at step 3"
    assert error.exit_code == 128 + signal.SIGTERM
