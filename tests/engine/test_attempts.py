"""A run that is killed again and again at the same step is failed. A run that makes progress is not."""

import json
import signal

import pytest
from commands import call, records, start, wait_until

from tasks.engine import attempts

RUN = (
    "task=grokking",
    "task.model.width=32",
    "task.batch_size=64",
    "num_steps=200",
    "task.log_every_steps=8",
    "task.eval_every_steps=null",
)


def test_starts_at_one_step_are_counted_until_one_ends_or_gets_further(tmp_path):
    def starts_at(step: int | None) -> int:
        deaths = attempts.note_begin(tmp_path)
        return deaths if step is None else attempts.note_start(tmp_path, step, {})

    assert [starts_at(step) for step in (0, 0, 0, 8, 8)] == [0, 1, 2, 0, 1]
    attempts.note_end(tmp_path, 16)
    assert starts_at(16) == 0
    assert [starts_at(step) for step in (None, None, 16)] == [
        0,
        1,
        3,
    ]  # no step: it died while it built the model
    assert [attempt.step for attempt in attempts.history(tmp_path)] == [0, 0, 0, 8, 8, 16, None, None, 16]


def test_damaged_lines_are_left_out_and_the_next_one_is_whole(tmp_path):
    attempts.note_start(tmp_path, 8, {})
    with open(tmp_path / attempts.NAME, "ab") as file:
        file.write(
            b'\xff\xfe\n["no", "object"]\n{"start": "eight"}\n{"start": 1'
        )  # the last one was killed while it was written
    assert attempts.note_start(tmp_path, 8, {}) == 1
    assert [attempt.step for attempt in attempts.history(tmp_path)] == [8, 8]


def test_starts_of_an_older_version_are_read(tmp_path):
    (tmp_path / attempts.NAME).write_text('{"start": 0}\n{"start": 0}\n{"end": 8}\n{"start": 8}\n')
    assert attempts.history(tmp_path) == [(0, False, None), (0, True, None), (8, False, None)]
    assert attempts.states(tmp_path) == [{"from": 0}]


def test_the_states_are_those_of_the_steps_that_a_run_stands_on(tmp_path):
    for step, commit in (
        (0, "a"),
        (0, "b"),
        (8, "b"),
        (16, "c"),
        (8, "d"),
    ):  # d resumes from b's checkpoint, so c's steps are lost
        attempts.note_begin(tmp_path)
        attempts.note_start(tmp_path, step, {"git_commit": commit})
    assert attempts.states(tmp_path) == [{"from": 0, "git_commit": "b"}, {"from": 8, "git_commit": "d"}]


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_at_its_start_is_failed_and_not_tried_again(tmp_path):
    for _ in range(attempts.LIMIT):
        process = start("train.py", *RUN, f"runs_dir={tmp_path}")
        logs = list(tmp_path.glob("*/*/metrics.jsonl"))
        before = logs[0].stat().st_mtime_ns if logs else 0
        wait_until(
            lambda before=before: any(
                p.stat().st_size and p.stat().st_mtime_ns > before for p in tmp_path.glob("*/*/metrics.jsonl")
            )
        )
        process.kill()
        process.communicate()
    done = call("train.py", *RUN, f"runs_dir={tmp_path}")
    assert done.returncode == 1
    (record,) = records(tmp_path).values()
    assert record["status"] == "failed"
    assert record["reason"] == "it ended 3 times without an error after step 0: killed, or out of memory"
    again = call("train.py", *RUN, f"runs_dir={tmp_path}")
    assert "scripts/retry.py" in again.stderr


@pytest.mark.slow
@pytest.mark.weekly
def test_a_run_that_was_killed_three_times_but_got_further_each_time_goes_on(tmp_path):
    for steps in (8, 16, 24):
        process = start("train.py", *RUN, f"runs_dir={tmp_path}", "checkpoint_every_steps=8")
        wait_until(
            lambda steps=steps: any(f'"step":{steps}' in p.read_text() for p in tmp_path.glob("*/*/metrics.jsonl"))
        )
        process.kill()
        process.communicate()
    assert call("train.py", *RUN, f"runs_dir={tmp_path}").returncode == 0
    (record,) = records(tmp_path).values()
    assert record["status"] == "finished"


@pytest.mark.slow
def test_every_piece_of_a_run_is_in_its_history(tmp_path):
    process = start("train.py", *RUN, f"runs_dir={tmp_path}")
    wait_until(lambda: any(p.stat().st_size for p in tmp_path.glob("*/*/metrics.jsonl")))
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR2
    assert call("train.py", *RUN, f"runs_dir={tmp_path}").returncode == 0
    (path,) = tmp_path.glob(f"*/*/{attempts.NAME}")
    _, first, stop, _, second, end = map(json.loads, path.read_text().splitlines())
    assert (first["start"], end) == (0, {"end": 200})
    assert stop["end"] == second["start"] > 0


@pytest.mark.parametrize("attempt", [1, 3])
def test_out_of_memory_is_on_record_after_three_attempts(tmp_path, monkeypatch, attempt):
    from scripts.cli.common import compose_config
    from tasks.engine import run as engine
    from tasks.engine.errors import OutOfMemory, TrainingFailed
    from tasks.engine.records import run_folder
    from tasks.engine.training import Training

    def too_much(self) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Training, "_update", too_much)
    cfg = compose_config([*RUN, f"runs_dir={tmp_path}", "quiet=true"])
    run_folder(cfg).mkdir(parents=True)
    for _ in range(attempt - 1):
        attempts.note_start(run_folder(cfg), 0, {})
    with pytest.raises(TrainingFailed if attempt == 3 else OutOfMemory, match="out of memory"):
        engine.run(cfg)
    assert len(records(tmp_path)) == (attempt == 3)


def test_an_operation_without_a_deterministic_form_is_said_and_is_no_death(tmp_path, monkeypatch):
    from scripts.cli.common import compose_config
    from tasks.engine import run as engine
    from tasks.engine.errors import UserError
    from tasks.engine.records import run_folder
    from tasks.engine.training import Training

    def refused(self) -> None:  # torch's words
        raise RuntimeError(
            "nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'."
        )

    monkeypatch.setattr(Training, "_update", refused)
    cfg = compose_config([*RUN, f"runs_dir={tmp_path}", "quiet=true"])
    with pytest.raises(
        UserError, match=r"nll_loss2d_forward_out_cuda_template has no deterministic form .* set deterministic=false"
    ):
        engine.run(cfg)
    ((step, ended, _),) = attempts.history(run_folder(cfg))
    assert (step, ended) == (0, True)
    assert not records(tmp_path)
