"""scripts/mechanism.py: from a task's name to the table of its replays."""

import pytest

from results.mechanism import read, sentence
from scripts import mechanism
from tasks.engine import replay
from tasks.engine.errors import TrainingFailed, UserError

STEPS = 30


@pytest.fixture
def call(tmp_path):
    """Return a function that calls the command, and the folder of its tables."""

    def main(*arguments):
        mechanism.main([*arguments, f"num_steps={STEPS}", f"results_dir={tmp_path}", f"data_dir={tmp_path}"])

    return main, tmp_path / "mini"


def test_grokking_at_mini_scale_is_reproduced(call, capsys):
    main, folder = call
    main("grokking")
    rows = read(folder)
    assert [(row["regularizer"], row["kappa_init_param"]) for row in rows] == [
        ("adamcpr_ip", "1"),
        ("adamcpr_ws", "5"),
        ("adamcpr_ki0", "0.8"),
    ]
    assert {(row["outcome"], row["same_steps"], row["steps"]) for row in rows} == {("reproduced", "yes", str(STEPS))}
    assert all(row["bounds"] == row["matrices"] for row in rows[1:])
    assert sentence(folder, "grokking").startswith("Mechanism: reproduced. λ, κ and θ of AdamCPR Kappa-IP, Kappa-WS")
    assert "Kappa-kI0, k = 0.8" in capsys.readouterr().out
    assert "- code: " in (folder / "mechanism.md").read_text()


def test_a_difference_is_written_and_fails(call, monkeypatch):
    """Nothing is small enough for rounding."""
    main, folder = call
    monkeypatch.setitem(replay.PER_STEP, "theta", 0.0)
    with pytest.raises(TrainingFailed, match="grokking with adamcpr_ip, grokking with adamcpr_ws"):
        main("grokking")
    assert {row["outcome"] for row in read(folder)} == {"differs"}


def test_a_task_without_data_is_left_out_unless_it_is_named(call, monkeypatch, capsys):
    main, folder = call
    monkeypatch.setattr(mechanism, "lowest_bounds", lambda scale: {"cifar100": {}, "grokking": {}})
    monkeypatch.setattr(mechanism, "prepare_task", without_images)
    main()
    assert "cifar100 is left out: no source can be reached" in capsys.readouterr().err
    assert {row["task"] for row in read(folder)} == {"grokking"}
    with pytest.raises(UserError, match="no source can be reached"):
        main("cifar100")


def test_a_command_that_replays_no_task_fails(call, monkeypatch):
    main, folder = call
    monkeypatch.setattr(mechanism, "lowest_bounds", lambda scale: {"cifar100": {}})
    monkeypatch.setattr(mechanism, "prepare_task", without_images)
    with pytest.raises(UserError, match="no task could be replayed"):
        main()
    assert not folder.exists()


def without_images(task, names, root):
    if task == "cifar100":
        raise UserError("no source can be reached")


def test_an_unknown_task_is_refused_before_any_replay(call):
    main, folder = call
    with pytest.raises(UserError, match="task 'grocking' is unknown; did you mean grokking"):
        main("cifar100", "grocking")
    assert not folder.exists()


def test_every_task_with_a_configuration_of_mini_scale_is_replayed():
    tasks = mechanism.lowest_bounds("mini")
    assert set(tasks) == {path.stem for path in (mechanism.CONFIG_DIR / "scale" / "mini").glob("*.yaml")}
    assert tasks["grokking"] == {"adamcpr_ki0": 0.8}
    assert tasks["cifar100"] == {"adamcpr_ki0": 1, "adamcpr_k": 0.01}


def test_without_num_steps_bounds_can_be_set_within_the_replayed_steps(monkeypatch, tmp_path):
    """The paper's lr warm-up of GPT-2 has 5,000 steps, mini scale's 150. Kappa-IP samples every tenth of it."""
    asked = []

    def faked(cfg, steps):
        asked.append((cfg.regularizer.name, steps))
        state = {"hardware": {"gpu": "a GPU", "threads": 1}, "versions": {"python": "3", "torch": "2"}}
        state |= {"kernel": "triton", "git_commit": "abc"}
        return replay.Replayed(1, steps, 1, 1, 0.0, 0.0, 0.0, True, 0, 1.0, 0.0, 0.0, state)

    monkeypatch.setattr(replay, "replay", faked)
    monkeypatch.setattr(mechanism, "prepare_task", lambda *_: None)
    mechanism.main(["gpt2", "scale=paper", f"results_dir={tmp_path}"])
    mechanism.main(["gpt2", "scale=mini", f"results_dir={tmp_path}"])
    assert asked == [("adamcpr_ip", 2300), ("adamcpr_ws", 10_300), ("adamcpr_ip", 300), ("adamcpr_ws", 600)]
