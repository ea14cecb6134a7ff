"""Scores on halves of a test set, and the setting that one half chooses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_runs import FIGURE2, run

from results.runs import frame
from results.table import HELD_OUT, best_table
from tasks.engine.halves import with_halves


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_halves_are_every_other_example(right):
    scores = with_halves("accuracy", torch.tensor(right), 100)
    assert scores["accuracy"] == 100 * sum(right) / len(right)
    assert scores["accuracy_selection"] == 100 * sum(right[::2]) / len(right[::2])
    assert scores["accuracy_report"] == 100 * sum(right[1::2]) / len(right[1::2])


def test_one_example_has_no_halves():
    with pytest.raises(ValueError, match="no two halves"):
        with_halves("accuracy", torch.ones(1))


def scored(name: str, seed: int, selection: float, report: float, **settings):
    finals = {
        "top1_accuracy": (selection + report) / 2,
        "top1_accuracy_selection": selection,
        "top1_accuracy_report": report,
    }
    return run(name, seed, finals, **settings)


def test_one_half_chooses_the_setting_and_the_other_scores_it():
    runs = []
    for seed in (1, 2, 3):
        runs.append(scored("adamw", seed, 80.0, 70.0 + seed, weight_decay=0.01))  # chosen
        runs.append(scored("adamw", seed, 79.0, 90.0, weight_decay=0.1))  # the best as the paper chooses
    row = best_table(FIGURE2, frame(runs, "top1_accuracy")).set_index("method").loc["AdamW"]
    assert row["best of ours"] == "84.50 ± 0.00 (lr 1e-3.0, 0.1)"
    assert row[HELD_OUT] == "72.00 ± 1.00 (lr 1e-3.0, 0.01)"


def test_a_cell_with_a_diverged_run_is_not_chosen():
    runs = [scored("adamw", seed, 80.0, 70.0, weight_decay=0.01) for seed in (1, 2)] + [
        run("adamw", 3, None, weight_decay=0.01)
    ]
    runs += [scored("adamw", seed, 60.0, 61.0, weight_decay=0.1) for seed in (1, 2, 3)]
    row = best_table(FIGURE2, frame(runs, "top1_accuracy")).set_index("method").loc["AdamW"]
    assert row[HELD_OUT] == "61.00 ± 0.00 (lr 1e-3.0, 0.1)"


def test_runs_without_such_scores_have_no_such_column():
    runs = [run("adamw", seed, {"top1_accuracy": 70.0}, weight_decay=0.1) for seed in (1, 2, 3)]
    assert HELD_OUT not in best_table(FIGURE2, frame(runs, "top1_accuracy"))
