"""The measurement of the engine's loop beside a plain one, at a small size."""

import pytest
from commands import write_fashion_mnist

from scripts.bench import loops
from tasks.engine.errors import UserError

PLAIN, ENGINE = "plain, AdamW", "engine, AdamCPR IP"


@pytest.mark.slow
def test_the_engine_s_loop_and_a_plain_one_take_turns_and_the_plain_one_s_ratio_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loops, "PLAIN", {"cifar100": {PLAIN: loops.PLAIN["cifar100"][PLAIN]}})  # two of five loops
    monkeypatch.setattr(loops, "ENGINE", {ENGINE: "adamcpr_ip"})
    data = write_fashion_mnist(tmp_path)
    small = ("task.batch_size=8", "task.model.width=4", "task.data.train_size=60", f"data_dir={data}")
    loops.main(["task=cifar100", "scale=mini", "rounds=2", "steps=1", *small])
    about, layout, _, *rows = capsys.readouterr().out.splitlines()
    assert about.endswith("2 rounds of 1 steps") and "channels first in the plain loops" in layout
    assert [row[:26].strip() for row in rows] == [PLAIN, ENGINE]
    assert rows[0][37:].split()[0] == "1.000" and all(float(row[26:37].replace(",", "")) > 0 for row in rows)


def test_a_task_without_a_plain_loop_is_one_line():
    with pytest.raises(UserError, match="task=clip is unknown; choose one of gpt2, cifar100"):
        loops.main(["task=clip"])
