"""Pairs of two settings: the pairs, the finding on their difference, and the drawing, on made-up runs."""

import math
import random

import pytest
from made_runs import EVALUATE_AT, accuracy_pairs, artefact, epoch_pairs, run
from matplotlib.colors import to_hex

from results.evidence.direction import findings
from results.evidence.played import play
from results.layouts import pairs
from results.layouts.pairs import mean_table
from results.schema import at_scale

LRS = (1e-3, 1e-2)
PAPER = at_scale(artefact("evaluate_at"), "paper")


def found(runs, claim: str = "same-cifar", definition=PAPER, complete: bool = True):
    """The finding on one claim of evaluate_at."""
    return next(one for one in findings(play(definition, runs), complete) if one.claim == claim)


def test_a_pair_s_difference_is_a_mean_over_learning_rates_and_paired_by_seed():
    finding = found(accuracy_pairs(lambda lr, seed: 100 * lr + seed / 10, (1, 2, 3, 4)))
    assert finding.difference == pytest.approx(0.55 + 0.25) and finding.pairs == 4
    assert finding.low < finding.difference < finding.high
    assert "after 80.80 against before 80.00" in finding.said


def test_without_a_control_two_settings_are_neither_the_same_nor_different():
    for size in (0.0, 50.0):
        finding = found(accuracy_pairs(lambda lr, seed, size=size: size + seed / 100))
        assert (finding.outcome, finding.p) == ("not resolved", None)
        assert "without a control that is told apart" in finding.said and "would have been seen" in finding.said


def test_mini_scale_has_numbers_only_and_missing_runs_nothing():
    runs = accuracy_pairs(lambda lr, seed: seed / 10, (1, 2, 3, 4))
    finding = found(runs, definition=EVALUATE_AT)
    assert finding.outcome == "numbers only" and finding.difference == pytest.approx(0.25)
    missing = found(runs, complete=False)
    assert (missing.outcome, missing.said) == ("runs missing", "")


def test_a_time_to_a_target_is_better_if_it_is_shorter():
    finding = found(epoch_pairs([(200, 220), (200, 240), (200, 230)]), "same-grokking")
    assert finding.difference == pytest.approx(-30)
    assert "after 230.00 against before 200.00" in finding.said


@pytest.mark.parametrize("pair", [(None, 200), (200, None), (None, None)])
def test_a_run_that_never_got_there_leaves_no_difference(pair):
    finding = found(epoch_pairs([(200, 200)] * 5 + [pair]), "same-grokking")
    assert (finding.outcome, finding.difference) == ("numbers only", None)


def test_a_pair_is_two_runs_of_one_seed_and_learning_rate():
    runs = accuracy_pairs(lambda lr, seed: 100 * lr + seed, (1, 2)) + epoch_pairs([(200, 230), (210, None)])
    runs.append(run("adamcpr_ws", 3, {"top1_accuracy": 80.0}, lr=1e-3, task="cifar100", evaluate_at="before"))
    table = pairs.table(EVALUATE_AT, random.Random(0).sample(runs, len(runs)), 3).astype(object).fillna("none")
    assert table.to_numpy().tolist() == [
        ["grokking", 1e-3, 1, 200.0, 230.0, 30.0],
        ["grokking", 1e-3, 2, 210.0, math.inf, math.inf],
        *(["cifar100", 1e-3, seed, 80.0, 80.1 + seed, pytest.approx(0.1 + seed)] for seed in (1, 2)),
        ["cifar100", 1e-3, 3, 80.0, "none", "none"],
        *(["cifar100", 1e-2, seed, 80.0, 81.0 + seed, pytest.approx(1.0 + seed)] for seed in (1, 2)),
    ]
    assert table.columns.to_list() == ["task", "lr", "seed", "before", "after", "difference"]


def test_the_table_has_means_and_spreads_and_says_which_scores_are_missing():
    runs = accuracy_pairs(lambda lr, seed: None if (lr, seed) == (1e-2, 1) else seed, (1, 2, 3)) + epoch_pairs(
        [(200, None)]
    )
    rows = (
        mean_table(EVALUATE_AT, pairs.table(EVALUATE_AT, runs, 3)).drop(columns=["task", "score"]).to_numpy().tolist()
    )
    assert rows == [
        ["1e-3.0", 1, "200.00", "- (1 without)", "- (1 without)"],
        ["1e-3.0", 3, "80.00 ± 0.00", "82.00 ± 1.00", "+2.00 ± 1.00"],
        ["1e-2.0", 3, "80.00 ± 0.00", "82.50 ± 0.71 (1 without)", "+2.50 ± 0.71 (1 without)"],
    ]


def test_the_figure_has_a_panel_a_task_and_a_point_a_pair():
    runs = accuracy_pairs(lambda lr, seed: seed, (1, 2, 3)) + epoch_pairs([(200, 230), (210, None)])
    panels = pairs.figure(EVALUATE_AT, pairs.table(EVALUATE_AT, runs, 3), runs, "data", "a footer").axes
    points = [
        [cloud.get_offsets().tolist() for cloud in axes.collections if cloud.get_label().startswith("lr")]
        for axes in panels
    ]
    assert points == [[[[200, 230]]], [[[80, 81], [80, 82], [80, 83]]] * 2]
    assert "; pairs not shown: 1" in panels[0].get_title()
    assert "not shown" not in panels[1].get_title()
    assert len(
        {to_hex(cloud.get_facecolor()[0]) for cloud in panels[1].collections if cloud.get_label().startswith("lr")}
    ) == len(LRS)
    for axes in panels:
        (equality,) = axes.lines
        assert list(equality.get_xdata()) == list(equality.get_ydata()) == list(axes.get_xlim())
