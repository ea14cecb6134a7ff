"""Real processes, real kills: the end of a run does not depend on how often it was interrupted."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.engine.errors import Interrupted

ROOT = Path(__file__).resolve().parents[1]


def command(runs_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts/train.py"), "task=grokking", f"runs_dir={runs_dir}", "quiet=true", *overrides]


def train(runs_dir: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(runs_dir, *overrides), capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def only_folder(runs_dir: Path) -> Path:
    (folder,) = (runs_dir / "grokking").iterdir()
    return folder


WS = ("regularizer=adamcpr_ws", "regularizer.warm_start=30")
IP = ("regularizer=adamcpr_ip", "regularizer.reg_step_size=5")
SHORT = ("num_steps=60", "task.eval_every_steps=20", "task.log_every_steps=10", "checkpoint_every_steps=7")


@pytest.mark.parametrize("regularizer", [WS, IP], ids=["WS", "IP"])
def test_killed_runs_end_with_the_same_bits(tmp_path, regularizer):
    undisturbed = tmp_path / "undisturbed"
    assert train(undisturbed, *regularizer, *SHORT).returncode == 0
    killed = tmp_path / "killed"
    for stop_at in (7, 28, 42):  # before, about and after the step at which κ is set
        process = subprocess.Popen(command(killed, *regularizer, *SHORT), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not _has_logged(killed, stop_at):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert train(killed, *regularizer, *SHORT).returncode == 0
    a, b = only_folder(undisturbed), only_folder(killed)
    records = [json.loads((folder / "record.json").read_text()) for folder in (a, b)]
    assert records[0]["state_sha256"] == records[1]["state_sha256"]
    assert records[0]["metrics"] == records[1]["metrics"]
    for name in ("metrics.jsonl", "dynamics.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def _has_logged(runs_dir: Path, step: int) -> bool:
    logs = list(runs_dir.glob("grokking/*/dynamics.jsonl"))
    if not logs or not (lines := logs[0].read_text().splitlines()[1:]):
        return False
    try:
        return json.loads(lines[-1])["step"] >= step
    except ValueError:
        return False


def test_a_finished_run_is_not_trained_again_and_a_damaged_record_is(tmp_path):
    arguments = ("regularizer=adamw", "num_steps=10")
    assert train(tmp_path, *arguments).returncode == 0
    path = only_folder(tmp_path) / "record.json"
    first = path.read_bytes()
    assert train(tmp_path, *arguments).returncode == 0
    assert path.read_bytes() == first
    flipped = bytearray(first)
    flipped[first.index(b"validation_accuracy") + 23] ^= 1
    path.write_bytes(flipped)
    again = train(tmp_path, *arguments)
    assert again.returncode == 0
    assert "damaged" in again.stderr
    assert json.loads(path.read_text())["metrics"] == json.loads(first)["metrics"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("regularizer=nonsense",), "nonsense"),
        (("task=nonsense",), "nonsense"),
        (("regularizer=adamcpr_k", "regularizer.kappa_init_param=-1"), "-1"),
        (("scale=paper",), "GPU"),
        (("num_steps=0",), "num_steps=0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    done = train(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


def test_a_truncated_checkpoint_is_said_and_the_run_ends_with_the_same_bits(tmp_path):
    arguments = ("regularizer=adamcpr_ip", "regularizer.reg_step_size=5", "num_steps=30", "checkpoint_every_steps=10")
    assert train(tmp_path / "a", *arguments).returncode == 0
    assert train(tmp_path / "b", *arguments).returncode == 0
    folder = only_folder(tmp_path / "b")
    (folder / "record.json").unlink()
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    again = train(tmp_path / "b", *arguments)
    assert again.returncode == 0
    assert "checkpoint.pt is damaged" in again.stderr
    digests = [json.loads((only_folder(tmp_path / x) / "record.json").read_text())["state_sha256"] for x in "ab"]
    assert digests[0] == digests[1]


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    arguments = ("regularizer=adamw", "num_steps=2000")
    first = subprocess.Popen(command(tmp_path, *arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(tmp_path.glob("grokking/*/metrics.jsonl")):
        time.sleep(0.05)
    second = train(tmp_path, *arguments)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM
    assert second.returncode == 2
    assert "is being trained by process" in second.stderr
    assert list(tmp_path.glob("grokking/*/checkpoint.pt"))


def test_an_interruption_crosses_from_a_worker_process_whole():
    error = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM, "stopped at step 3")))
    assert str(error) == "stopped at step 3"
    assert error.exit_code == 128 + signal.SIGTERM
