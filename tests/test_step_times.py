"""From the seconds of rounds to Table I.2: verdicts with intervals, the code and the bandwidth of every shape."""

import copy
import json

import numpy as np
import pytest
from commands import ROOT

from results.step_time_limits import judge_times
from results.step_times import describe, frame, write_step_times

RECORD = json.loads((ROOT / "results/mini/table_i2/rounds.json").read_text())


def verdict_of(ratios: list[float], claim: str = "training-gpt2s"):
    """The verdict on AdamCPR's training step, where fused AdamW's takes a second in every round."""
    methods = {"AdamW, fused": {"row": "adamw", "seconds": [1.0] * len(ratios)}, "AdamCPR, cpu": {"row": "adamcpr", "seconds": ratios}}
    shapes = {"gpt2s": {"training_step": {"methods": methods}}}
    return next(v for v in judge_times("table_i2", {"shapes": shapes}, {}) if v.claim == claim)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.98, 1.005, "holds"), (0.98, 1.03, "undecided"), (1.0, 1.025, "undecided"), (1.02, 1.05, "does not hold")],
)
def test_a_limit_is_kept_or_broken_only_where_the_whole_interval_says_so(low, high, verdict):
    found = verdict_of(list(np.linspace(low, high, 15)))
    assert found.verdict == verdict
    assert low <= found.low < (low + high) / 2 < found.high <= high
    assert found.ours == f"{(low + high) / 2:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert found.pairs == 15


def test_few_rounds_have_no_interval_and_decide_nothing():
    found = verdict_of([0.5] * 5)
    assert (found.verdict, found.ours, found.low) == ("undecided", "0.500", None)


def test_every_shape_is_said_with_the_commit_that_it_was_measured_with(tmp_path):
    write_step_times("table_i2", RECORD, tmp_path)
    text = (tmp_path / "table.md").read_text()
    for entry in RECORD["shapes"].values():
        parts = text.split(f"### {entry['title']}: ")[1:]
        assert len(parts) == sum(part in entry for part in ("optimizer_step", "training_step"))
        assert all(part.split("\n\n")[1] == f"Code: commit {entry['git_commit']}." for part in parts)
    head = next(line for line in text.splitlines() if line.startswith("- code: "))
    assert "5e10ff468e49 for GPT2m, GPT2l;" in head
    same = {"shapes": {"gpt2m": RECORD["shapes"]["gpt2m"]}}
    assert describe(same)["code"] == RECORD["shapes"]["gpt2m"]["git_commit"]


def test_the_committed_table_is_that_of_its_measurements(tmp_path):
    write_step_times("table_i2", RECORD, tmp_path)
    for name in ("table.md", "claims.csv", "table.csv"):
        assert (tmp_path / name).read_text() == (ROOT / "results/mini/table_i2" / name).read_text()


def test_a_share_of_the_bandwidth_is_of_the_same_round_where_it_was_measured_in_the_rounds(tmp_path):
    record = copy.deepcopy(RECORD)
    entry = record["shapes"]["gpt2l"]
    step = entry["optimizer_step"]
    seconds = np.array(step["methods"]["AdamW, fused"]["seconds"])
    del entry["bandwidth"]
    step["bandwidth"] = {"copy": [1.0] * len(seconds), "update": list(2 * 28 * entry["parameters"] / seconds)}  # twice what the step moves
    data = frame(record)
    share = data[(data["shape"] == "gpt2l") & (data["part"] == "optimizer_step")].set_index("method")["bandwidth_share"]
    assert share["AdamW, fused"] == pytest.approx(0.5)
    write_step_times("table_i2", record, tmp_path)
    sections = (tmp_path / "table.md").read_text().split("## Whole training step")[0].split("### ")[1:]
    once = [part.split(":")[0] for part in sections if "measured once, before the rounds" in part]
    assert "GPT2l" not in once
    assert len(once) == sum("bandwidth" in shape for shape in record["shapes"].values())
