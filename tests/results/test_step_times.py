"""Table I.2 from the seconds of rounds: findings with intervals, code and bandwidth of every shape."""

import copy
import json

import numpy as np
import pytest
from commands import ROOT

from results.step_time_limits import judge_times
from results.step_times import AFTER, IN_TURN, PROMISED_SHAPES, describe, frame, promises, write_step_times

RECORD = json.loads((ROOT / "results/mini/table_i2/rounds.json").read_text())


def finding_on(ratios: list[float], claim: str = "training-gpt2s"):
    """Return the finding on AdamCPR's training step if fused AdamW's takes a second in every round."""
    methods = {
        "AdamW, fused": {"row": "adamw", "seconds": [1.0] * len(ratios)},
        "AdamCPR, cpu": {"row": "adamcpr", "seconds": ratios},
    }
    shapes = {"gpt2s": {"training_step": {"methods": methods}}}
    return next(v for v in judge_times("table_i2", {"shapes": shapes}, {}) if v.claim == claim)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.98, 1.005, "within the limit"),
        (0.98, 1.03, "not resolved"),
        (1.0, 1.025, "not resolved"),
        (1.02, 1.05, "beyond the limit"),
    ],
)
def test_a_limit_is_kept_or_broken_only_where_the_whole_interval_says_so(low, high, outcome):
    found = finding_on(list(np.linspace(low, high, 15)))
    assert found.outcome == outcome
    assert low <= found.low < (low + high) / 2 < found.high <= high
    assert found.said == f"{(low + high) / 2:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert found.pairs == 15


def test_few_rounds_have_no_interval_and_decide_nothing():
    found = finding_on([0.5] * 5)
    assert (found.outcome, found.said, found.low) == ("not resolved", "0.500", None)


def test_every_shape_is_said_with_the_commit_that_it_was_measured_with(tmp_path):
    write_step_times("table_i2", RECORD, tmp_path)
    text = (tmp_path / "table.md").read_text()
    for entry in RECORD["shapes"].values():
        parts = text.split(f"### {entry['title']}: ")[1:]
        assert len(parts) == sum(part in entry for part in ("optimizer_step", "training_step", "gradients_in_turn"))
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
    step["bandwidth"] = {
        "copy": [1.0] * len(seconds),
        "update": list(2 * 28 * entry["parameters"] / seconds),
    }  # twice what the step moves
    data = frame(record)
    share = data[(data["shape"] == "gpt2l") & (data["part"] == "optimizer_step")].set_index("method")["bandwidth_share"]
    assert share["AdamW, fused"] == pytest.approx(0.5)
    write_step_times("table_i2", record, tmp_path)
    sections = (tmp_path / "table.md").read_text().split("## Whole training step")[0].split("### ")[1:]
    once = [part.split(":")[0] for part in sections if "measured once, before the rounds" in part]
    assert "GPT2l" not in once
    assert len(once) == sum("bandwidth" in shape for shape in record["shapes"].values())


def promised(own: dict[str, float], after: float = 1.05, rounds: int = 15, extra: int = 100_000) -> dict:
    """Return a record with these ratios of AdamCPR's step to fused AdamW's. `after` is equal everywhere."""
    record = copy.deepcopy({"shapes": {"gpt2s": RECORD["shapes"]["gpt2s"]}})
    gpt2s = record["shapes"]["gpt2s"]
    spread = np.linspace(0.999, 1.001, rounds)
    for number, (shape, ratio) in enumerate(own.items()):
        found = {
            "AdamW, fused": np.full(rounds, 0.5),
            "AdamCPR, cpu": 0.5 * ratio * spread,
            AFTER: 0.5 * after * spread,
        }
        rows = {"AdamW, fused": "adamw", "AdamCPR, cpu": "adamcpr", AFTER: None}
        methods = {
            label: {
                "row": rows[label],
                "bytes_moved_per_parameter": 28,
                "seconds": list(seconds),
                "extra_peak_bytes": extra + number,
            }
            for label, seconds in found.items()
        }
        part = {"rounds": rounds, "bandwidth": {"copy": [1e9] * rounds}, "methods": methods, "skipped": {}}
        record["shapes"][shape] = {**gpt2s, "title": shape.upper(), "optimizer_step": part}
    return record


def test_the_promised_medians_are_over_the_four_shapes_and_stand_below_the_claims(tmp_path):
    record = promised(dict(zip(PROMISED_SHAPES, (0.9, 0.94, 0.98, 1.2), strict=True)), after=1.05)
    line = promises(record)
    assert line.startswith("Optimizer step, median over GPT2S, VITB32, DEITS, RESNET50: *AdamCPR* takes 0.960 [0.9")
    assert "times as long (limit 1.00, within the limit) and *AdamCPR, after* takes 1.050 [1.0" in line
    assert line.endswith(
        "(limit 1.10, within the limit) as torch's fused AdamW. "
        "Extra peak memory of AdamCPR: 0.1 MB at most (limit 1 MB, within the limit)."
    )
    said = write_step_times("table_i2", record, tmp_path)
    claims, _, rest = (tmp_path / "table.md").read_text().partition(line)
    assert claims.rstrip().endswith("|") and "## Optimizer step" in rest
    assert line in said
    assert "evaluate_at='after'" in rest
    assert promises(record) == line  # the same resamples


@pytest.mark.parametrize(
    ("own", "after", "rounds", "extra", "words"),
    [
        (
            1.05,
            1.2,
            15,
            100_000,
            ("(limit 1.00, beyond the limit)", "(limit 1.10, beyond the limit)", "(limit 1 MB, within the limit)"),
        ),
        (
            1.0,
            1.1,
            15,
            2_000_000,
            (
                "(limit 1.00, not resolved)",
                "(limit 1.10, not resolved)",
                "2.0 MB at most (limit 1 MB, beyond the limit)",
            ),
        ),
        (0.5, 0.5, 5, 100_000, ("takes 0.500 times as long (limit 1.00, not resolved)", "(limit 1.10, not resolved)")),
    ],
)
def test_a_promise_is_kept_or_broken_only_where_the_whole_interval_says_so(own, after, rounds, extra, words):
    line = promises(promised(dict.fromkeys(PROMISED_SHAPES, own), after, rounds, extra))
    assert all(word in line for word in words)


def test_nothing_is_said_of_the_promises_unless_all_four_shapes_were_measured_and_of_after_unless_it_was():
    record = promised(dict.fromkeys(PROMISED_SHAPES, 1.0))
    del record["shapes"]["deits"]["optimizer_step"]["methods"][AFTER]
    assert "*AdamCPR* takes 1.000" in promises(record) and AFTER not in promises(record)
    del record["shapes"]["deits"]
    assert promises(record) == ""


def test_the_table_says_how_much_longer_a_step_takes_with_gradients_in_turn(tmp_path):
    record = {"shapes": {"toy": copy.deepcopy(RECORD["shapes"]["toy"])}}
    spread = np.linspace(0.99, 1.01, 15)
    seconds = {
        "AdamW, fused": 0.01,
        f"AdamW, fused{IN_TURN}": 0.0102,
        "AdamCPR, cpu": 0.003,
        f"AdamCPR, cpu{IN_TURN}": 0.0036,
    }
    methods = {
        label: {
            "row": {"AdamW, fused": "adamw", "AdamCPR, cpu": "adamcpr"}.get(label),
            "bytes_moved_per_parameter": 28,
            "seconds": list(time * (spread if IN_TURN in label else np.ones(15))),
            "extra_peak_bytes": 0,
        }
        for label, time in seconds.items()
    }
    record["shapes"]["toy"]["gradients_in_turn"] = {"rounds": 15, "methods": methods, "skipped": {}}
    said = write_step_times("table_i2", record, tmp_path)
    text = (tmp_path / "table.md").read_text().split("## Gradients in turn")[1]
    cells = {
        row[1].strip(): row[3].split("(")[0].strip()
        for row in (line.split("|") for line in text.splitlines())
        if len(row) > 3
    }
    expected = {
        "AdamW, fused": "1.000",
        f"AdamW, fused{IN_TURN}": "1.020",
        "AdamCPR, cpu": "1.000",
        f"AdamCPR, cpu{IN_TURN}": "1.200",
    }
    assert cells.items() >= expected.items()
    line = next(
        line for line in text.splitlines() if line.startswith("toy, gradients in turn: AdamCPR, cpu takes 1.200 [")
    )
    assert line.endswith("times as long (limit 1.50, within the limit) as with all gradients.") and line in said
    assert set(frame(record)["part"]) == {"optimizer_step"}  # the page draws these as multiples of fused AdamW
