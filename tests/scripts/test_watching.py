"""Run status.py, reproduce.py --dry-run, retry.py and prune.py over runs in every state."""

import contextlib
import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT, call, call_forked, command, is_one_line
from made_records import mini_artefacts
from omegaconf import DictConfig

from scripts.bench.sweeps import make_finished, sweep
from scripts.cli.tables import hours
from scripts.reproduce import COMMAND
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand, plan
from tasks.engine import records
from tasks.engine.attempts import history
from tasks.engine.code import head
from tasks.engine.errors import TrainingFailed
from tasks.engine.files import only_process
from tasks.engine.run import run

# All tests use the artefact's three seeds and 24 steps, logged every 8, with checkpoints at 5, 10, ... and at the end.
SETTINGS = (
    "num_steps=24",
    "task.model.width=32",
    "task.batch_size=64",
    "task.log_every_steps=8",
    "checkpoint_every_steps=5",
)
NAN = "lr=1e30"


def configs(runs_dir: Path, *more: str) -> list[DictConfig]:
    """Return the six configurations of the artefact."""
    request = COMMAND.parse([*artefact(runs_dir), *more])
    return list(expand(load_artefact("grokking"), request.options, request.overrides).values())


def left_to_do(runs_dir: Path) -> set[str]:
    """Return what reproduce.py would train."""
    request = COMMAND.parse([*artefact(runs_dir)])
    return {records.run_id(cfg) for cfg in plan(load_artefact("grokking"), request.options, request.overrides).todo}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Finish the six runs."""
    runs_dir = tmp_path_factory.mktemp("finished")
    for cfg in configs(runs_dir):
        run(cfg)
    return runs_dir


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> Path:
    """Make one run whose loss is not finite."""
    runs_dir = tmp_path_factory.mktemp("failed")
    with pytest.raises(TrainingFailed):
        run(configs(runs_dir, NAN)[2])
    return runs_dir


def artefact(runs_dir: Path) -> tuple[str, ...]:
    return ("grokking", *SETTINGS, f"runs_dir={runs_dir}")


def copy(runs_dir: Path, to: Path) -> Path:
    return Path(shutil.copytree(runs_dir, to / "runs"))


def folders(runs_dir: Path) -> list[Path]:
    return sorted((runs_dir / "grokking").glob("*-s*"))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and time of every file but locks."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@contextlib.contextmanager
def every_state(finished: Path, folder: Path, monkeypatch) -> Iterator[tuple[Path, list[Path]]]:
    """Put the six runs into six states: done, done with a damaged log, running, stale, queued, to do.

    A fake squeue names the queued one."""
    runs_dir = copy(finished, folder)
    runs = folders(runs_dir)
    with open(runs[1] / "dynamics.jsonl", "ab") as log:
        log.write(b"x")
    for begun in runs[2:5]:
        (begun / "record.json").unlink()
    for gone in runs[4:]:
        shutil.rmtree(gone)
    (runs_dir / "slurm").mkdir()
    (runs_dir / "slurm" / "0a1b.json").write_text(
        json.dumps({"title": "grokking", "jobs": [["another"], [runs[4].name]]})
    )
    squeue = folder / "squeue"
    squeue.write_text("#!/bin/sh\necho 'cpr-grokking-0a1b|8|7|1|PENDING'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    with only_process(runs[2]):
        yield runs_dir, runs


@pytest.mark.parametrize(
    ("count", "said"), [(0.01234, "0.0123"), (12.34, "12.3"), (999.4, "999"), (999.6, "1,000"), (11600, "11,600")]
)
def test_hours_are_said_in_digits(count, said):
    assert hours(3600 * count, "GPU") == f"{said} GPU-hours"


def test_status_tells_every_state_and_names_what_is_not_done(finished, tmp_path, monkeypatch):
    with every_state(finished, tmp_path, monkeypatch) as (runs_dir, runs):
        before = contents(runs_dir)
        done = call("status.py", *artefact(runs_dir))
        assert contents(runs_dir) == before
    assert done.returncode == 0, done.stderr
    head, counts, empty, columns, *lines = done.stdout.splitlines()
    assert head.split()[:10] == [
        "artefact",
        "runs",
        "done",
        "diverged",
        "failed",
        "running",
        "queued",
        "unusable",
        "stale",
        "to",
    ]
    assert counts.split()[:10] == ["grokking", "6", "2", "0", "0", "1", "1", "0", "1", "1"]
    assert counts.count("core-hours") == 2
    assert "unknown" not in counts
    assert empty == ""
    assert columns.split()[:2] == ["state", "run"]
    assert [line.split()[:2] for line in lines[:3]] == [
        ["running", runs[2].name],
        ["queued", runs[4].name],
        ["stale", runs[3].name],
    ]
    assert "24 of 24" in lines[0]
    assert "7_1" in lines[1]
    assert lines[3].split()[:3] == ["to", "do", runs[5].name]
    assert len(lines) == 4


@pytest.mark.slow
def test_status_says_why_a_run_failed_and_of_all_artefacts_one_line_each(failed, tmp_path):
    done = call("status.py", "grokking", *SETTINGS, NAN, f"runs_dir={failed}")
    assert done.stdout.splitlines()[1].split()[:10] == ["grokking", "6", "0", "1", "0", "0", "0", "0", "0", "5"]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("diverged")]
    assert "adamw-s3" in line
    assert "8 of 24" in line
    assert "loss is nan between steps 1 and 8" in line
    done = call("status.py", f"runs_dir={tmp_path / 'none'}")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["artefact", *mini_artefacts()]
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_runs_of_another_commit_are_said_where_a_sweep_skips_them(finished, tmp_path):
    runs_dir = copy(finished, tmp_path)
    here = head()
    if here is None:
        pytest.skip("this folder is no git repository")
    for number, folder in enumerate(folders(runs_dir)):
        record = records.read_record(folder)
        assert record is not None
        commit = "0123456789ab-dirty-00000000" if number < 2 else f"{here[:12]}-dirty-00000000"
        records.write_record(folder, record | {"git_commit": commit})
    said = "2 of 6 finished runs were trained by another commit; reproduce.py skips them all the same"
    is_one_line(call("status.py", *artefact(runs_dir)), said)
    assert f"grokking: {said}\n" in call("reproduce.py", *artefact(runs_dir)).stdout


@pytest.mark.slow
def test_status_without_a_sweep_s_keys_says_that_there_are_runs_of_other_keys(finished, tmp_path):
    done = call("status.py", "grokking", f"runs_dir={finished}")
    assert done.stdout.splitlines()[1].split()[:3] == ["grokking", "6", "0"]
    is_one_line(done, f"scale=mini runs_dir={finished}", "has 6 more runs of these tasks", "add the keys")
    assert call("status.py", "grokking", f"runs_dir={tmp_path}").stderr == ""


def test_a_dry_run_says_what_reproduce_then_does(finished, tmp_path, monkeypatch):
    with every_state(finished, tmp_path, monkeypatch) as (runs_dir, runs):
        before = contents(runs_dir)
        done = call("reproduce.py", *artefact(runs_dir), "launcher=slurm", "--dry-run")
        local = call("reproduce.py", *artefact(runs_dir), "--dry-run")
        assert contents(runs_dir) == before
    assert done.returncode == local.returncode == 0, done.stderr
    *lines, sums = done.stdout.splitlines()
    said = [line for run in runs for line in lines if is_line_of(run, line)]
    expected = ("skip: done", "its logs are damaged", "leave to another process", "resume", "leave to job 7_1", "train")
    assert all(words in line for words, line in zip(expected, said, strict=True)), said
    assert "grokking, scale mini: 6 runs, 3 would be trained, 3 not; cost " in sums
    assert "estimated" not in sums  # the finished runs have been measured
    assert "6 runs, 4 would be trained, 2 not" in local.stdout  # a local sweep does not wait for the cluster's jobs
    priced = [line for line in local.stdout.splitlines()[1:-1] if line[-1].isdigit()]
    would_train = {run.name for run in runs if any(is_line_of(run, line) for line in priced)}
    assert would_train | {runs[2].name} == left_to_do(runs_dir)


def is_line_of(folder: Path, line: str) -> bool:
    """Tell whether a dry run's line is about a run. Here no two seeds of a regularizer share a fate."""
    (cfg,) = [cfg for cfg in configs(folder.parents[1]) if records.run_id(cfg) == folder.name]
    return {cfg.regularizer.name, str(cfg.seed)} <= set(line.split())


def test_a_dry_run_has_a_line_for_each_setting_with_its_seeds_and_their_price(tmp_path):
    """Figure 2 with four seeds, 64 runs, fits on a screen."""
    arguments = ("figure2", "seeds=1,2,3,5", f"runs_dir={tmp_path}", "--dry-run")
    head, *lines, sums = call_forked("reproduce.py", *arguments).stdout.splitlines()
    assert head.split() == ["regularizer", "differs", "in", "seeds", "what", "happens", "core", "time"]
    assert len(lines) == 16
    assert lines[-1].split() == ["adamcpr_ws", "lr=0.01", "regularizer.warm_start=4x", "1-3,5", "train", "0:01:12"]
    assert sums.startswith("figure2, scale mini: 64 runs, 64 would be trained, 0 not; cost 0.32 core-hours (estimated)")


def test_settings_that_no_axis_tells_apart_have_lines_of_their_own():
    """Figure 3 at paper scale trains two sizes of GPT-2 with the same grid."""
    said = call_forked("reproduce.py", "figure3", "scale=paper", "--dry-run").stdout
    at_one_setting = [line for line in said.splitlines() if "adamcpr_ip" in line and "lr=0.003162" in line]
    assert [line.split()[2:5] for line in at_one_setting] == [
        ["task.size=gpt2s", "1-3", "train"],
        ["task.size=gpt2m", "1-3", "train"],
    ]


@pytest.mark.slow
def test_before_anything_was_measured_costs_are_the_artefact_s_estimate_or_unknown(tmp_path):
    done = call("reproduce.py", "figure2", "grokking", "scale=paper", f"runs_dir={tmp_path}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "273 runs, 273 would be trained, 0 not; cost 45.5 GPU-hours (of an A100; estimated)" in done.stdout
    assert "\ngrokking, scale paper: 36 runs" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("and up to 20 runs of finalists")
    done = call("reproduce.py", "grokking", "task.batch_size=64", f"runs_dir={tmp_path}", "--dry-run")
    assert "cost unknown" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_run_with_a_nan_starts_again_from_step_0_and_nothing_of_it_is_lost(failed, tmp_path):
    runs_dir = copy(failed, tmp_path)
    (folder,) = folders(runs_dir)
    before = contents(folder)
    refused = call("retry.py", str(folder), stdin=subprocess.DEVNULL)
    assert refused.returncode == 2
    is_one_line(refused, "--yes")
    assert "loss is nan between steps 1 and 8; would resume from step 0" in refused.stdout
    assert contents(folder) == before
    assert call("retry.py", str(folder), "--yes").returncode == 0
    for name in ("record.json", "checkpoint.pt", "metrics.jsonl", "dynamics.jsonl"):
        assert not (folder / name).exists()
        assert (folder / f"{name}.failed").read_bytes() == before[str(folder / name)][0]
    cfg = configs(runs_dir, NAN)[2]
    with pytest.raises(TrainingFailed):
        run(cfg)
    assert starts(folder) == [0, 0]
    # A resume from the checkpoint of step 5 would end the same way, so the user must ask for it.
    done = call("retry.py", *artefact(runs_dir), NAN, "from=checkpoint", "--yes")
    assert done.stdout.splitlines()[-1].endswith(
        f"next: python scripts/reproduce.py {' '.join(artefact(runs_dir))} {NAN}"
    )
    with pytest.raises(TrainingFailed):
        run(cfg)
    assert starts(folder) == [0, 0, 5]
    names = ("record.json", "record.json.failed", "record.json.failed.2")
    assert {json.loads((folder / name).read_text())["reason"] for name in names} == {
        "loss is nan between steps 1 and 8"
    }


def starts(folder: Path) -> list[int]:
    return [attempt.step for attempt in history(folder) if attempt.step is not None]


def test_a_run_that_ran_out_of_memory_goes_on_from_its_checkpoint(finished, tmp_path):
    runs_dir = copy(finished, tmp_path)
    cfg = configs(runs_dir)[0]
    folder = records.run_folder(cfg)
    good = records.read_record(folder)
    assert good is not None
    records.write_record(
        folder, good | {"status": "failed", "reason": "out of memory at step 24, in 3 attempts", "metrics": {}}
    )
    done = call("retry.py", *artefact(runs_dir), "--yes")
    assert "would resume from its last checkpoint" in done.stdout
    again = run(cfg)
    assert starts(folder) == [0, 24]
    assert (again["status"], again["state_sha256"], again["metrics"]) == (
        "finished",
        good["state_sha256"],
        good["metrics"],
    )


def test_prune_removes_the_checkpoints_of_finished_runs_alone(finished, failed, tmp_path, monkeypatch):
    with every_state(finished, tmp_path, monkeypatch) as (runs_dir, runs):
        shutil.copytree(folders(failed)[0], runs_dir / "grokking" / folders(failed)[0].name)
        (runs[0] / "checkpoint.pt.damaged").write_bytes(b"1234")
        before = contents(runs_dir)
        refused = call("prune.py", *artefact(runs_dir), stdin=subprocess.DEVNULL)
        assert refused.returncode == 2
        is_one_line(refused, "Remove 2 checkpoints", "--yes")
        assert contents(runs_dir) == before
        done = call("prune.py", *artefact(runs_dir), "--yes")
        after = contents(runs_dir)
    assert done.returncode == 0, done.stderr
    removed = set(before) - set(after)
    assert removed == {str(runs[0] / "checkpoint.pt"), str(runs[0] / "checkpoint.pt.damaged")}
    assert after == {path: content for path, content in before.items() if path not in removed}
    assert "freed " in done.stdout


@pytest.mark.slow
def test_orphans_are_pruned_only_if_asked_for_and_a_no_at_the_terminal_changes_nothing(finished, tmp_path):
    runs_dir = copy(finished, tmp_path)
    assert (
        call("prune.py", "grokking", f"runs_dir={runs_dir}", "--yes").stdout
        == "no finished run has a checkpoint; nothing to remove\n"
    )
    orphans = ("prune.py", "grokking", f"runs_dir={runs_dir}", "--orphans")  # no artefact has 24 steps
    assert "Remove 6 checkpoints" in at_terminal(*orphans, answer="n")
    assert len(list(runs_dir.glob("*/*/checkpoint.pt"))) == 6
    assert "freed " in at_terminal(*orphans, answer="y")
    assert not list(runs_dir.glob("*/*/checkpoint.pt"))
    assert not left_to_do(runs_dir)


def at_terminal(script: str, *arguments: str, answer: str) -> str:
    """Return the output of a command at a terminal, with its question answered."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command(script, *arguments), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(ours, 4096):
                said += piece
    os.close(ours)
    assert process.returncode == 0, said
    return said.decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status.py", "figure99"), ("figure99", "did you mean figure")),
        (("status.py", "--all"), ("--all",)),
        (("reproduce.py", "grokking", "--dry"), ("--dry", "--dry-run")),
        (("retry.py",), ("folder",)),
        (("retry.py", "scripts"), ("scripts", "no failed run")),
        (("retry.py", "grokking", "from=middle"), ("from=middle", "checkpoint")),
        (("prune.py", "grokking", "scale=huge"), ("huge", "mini")),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words):
    done = call(*arguments, cwd=ROOT)
    assert done.returncode == 2
    is_one_line(done, *words)


@pytest.mark.slow
def test_a_finished_sweep_is_skipped_and_looking_does_not_load_torch(tmp_path):
    assert make_finished(30, tmp_path) == 30
    before = contents(tmp_path)
    done = call("reproduce.py", *sweep(30, tmp_path))
    assert "grokking: 30 runs, 30 done, 0 to do" in done.stdout, done.stderr
    assert {path: content for path, content in contents(tmp_path).items() if "/results/" not in path} == before
    looking = (
        "import sys, scripts.reproduce, scripts.status, scripts.retry, scripts.prune; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", looking], cwd=ROOT).returncode == 0


def test_a_look_at_a_run_does_not_keep_a_process_from_it(tmp_path):
    with open(tmp_path / ".lock", "w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with only_process(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith("process ")


CONFIG = json.dumps(
    {
        "task": {"name": "grokking", "data": {"description": "sums"}},
        "regularizer": {"name": "adamw"},
        **{"scale": "mini", "seed": 1, "lr": 1e-3, "num_steps": 8},
    }
)


@pytest.mark.parametrize("script", ["show.py", "compare.py"])
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is not the folder of a run: it has no config.yaml"),
        ({"metrics.jsonl": '{"step":1,"loss":1}'}, "is not the folder of a run: it has no config.yaml"),
        ({"config.yaml": ""}, "is not the folder of a run: its configuration has no task.name"),
        ({"config.yaml": "- a"}, "is not the folder of a run: its configuration has no task.name"),
        ({"config.yaml": CONFIG.replace("num_steps", "steps")}, "its configuration has no num_steps"),
        ({"config.yaml": "{a: ["}, "config.yaml is not valid YAML"),
        ({"config.yaml": CONFIG}, None),
        ({"config.yaml": CONFIG, "metrics.jsonl": "", "dynamics.jsonl": ""}, None),
        ({"config.yaml": CONFIG, "metrics.jsonl": '3\nnull\n{"loss":1}\n[1]\n{"step": 2, "lo'}, None),
    ],
)
def test_a_run_is_shown_with_what_it_has_and_another_folder_is_one_line(tmp_path, script, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    done = call_forked(script, *[str(tmp_path)] * (1 + (script == "compare.py")))
    if said is None:
        assert (done.returncode, done.stderr) == (0, "")
        assert "not ended, step 0 of 8" in done.stdout
    else:
        assert done.returncode == 2
        is_one_line(done, said)


def test_a_damaged_record_is_said_beside_the_run(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "record.json").write_text("{")
    done = call_forked("show.py", str(tmp_path))
    assert done.returncode == 0 and "not ended" in done.stdout
    is_one_line(done, "record.json is damaged", "showing the run without it")


@pytest.mark.parametrize("script", ["show.py", "compare.py", "status.py"])
def test_every_command_reads_runs_dir_alike(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE", str(tmp_path))
    names = {"show.py": ["a"], "compare.py": ["a", "a"], "status.py": ["grokking"]}[script]
    done = call_forked(script, *names, "runs_dir=2024")
    assert done.returncode == 2
    is_one_line(done, "runs_dir=2024 must be text")
    if script != "status.py":
        done = call_forked(script, *names, "runs_dir=${oc.env:HERE}/runs")
        is_one_line(done, f"neither a folder nor the beginning of a run id in {tmp_path}/runs/")
