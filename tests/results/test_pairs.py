"""Pairs of two settings: the pairs, the verdict that they are the same, and the drawing, on made-up runs."""

import math
import random

import pytest
from made_runs import EVALUATE_AT, accuracy_pairs, epoch_pairs, run
from matplotlib.colors import to_hex
from scipy import stats

from results.claims import judge
from results.pairs import every_pair, pair_figure, pair_table

MARGIN = {part["task"]: part["margin"]["mini"] for part in EVALUATE_AT["parts"]}
LRS = (1e-3, 1e-2)


def same(runs, claim: str = "same-cifar", complete: bool = True) -> tuple[str, str]:
    """Return the verdict on one claim of evaluate_at and its text."""
    verdicts = {verdict.claim: verdict for verdict in judge(EVALUATE_AT, "mini", runs, complete)}
    return verdicts[claim].verdict, verdicts[claim].ours


def rates(mean: float, std: float, trials: int = 200) -> dict[str, float]:
    """Return how often each verdict occurs if the differences are normal."""
    verdicts = []
    for trial in range(trials):
        noise = random.Random(trial)
        verdicts.append(same(accuracy_pairs(lambda lr, seed, noise=noise: noise.gauss(mean, std)))[0])
    return {verdict: verdicts.count(verdict) / trials for verdict in set(verdicts)}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_as_large_as_the_margin_is_seldom_called_the_same_or_another(sign):
    seen = rates(sign * MARGIN["cifar100"], MARGIN["cifar100"])
    # 5 % of each are expected. More than 10 % of 200 has a probability below 0.002.
    assert seen.get("holds", 0) <= 0.1
    assert seen.get("does not hold", 0) <= 0.1
    assert seen["undecided"] >= 0.8


def test_settings_without_a_difference_are_called_the_same():
    """The differences are as wide as between two independent runs with the margin as std over seeds."""
    seen = rates(0, math.sqrt(2) * MARGIN["cifar100"])
    assert seen["holds"] > 0.85
    assert "does not hold" not in seen


@pytest.mark.parametrize("sign", [1, -1])
def test_settings_further_apart_than_the_margin_are_not_the_same(sign):
    seen = rates(sign * 2 * MARGIN["cifar100"], math.sqrt(2) * MARGIN["cifar100"])
    assert seen["does not hold"] > 0.85
    assert "holds" not in seen


def test_no_significant_difference_is_no_evidence_of_being_the_same():
    wide = [-5, 5, -4, 4, -3, 3]
    assert stats.wilcoxon(wide).pvalue > 0.9
    assert same(accuracy_pairs(lambda lr, seed: wide[seed - 1], range(1, 7)))[0] == "undecided"


def test_a_significant_difference_within_the_margin_is_still_the_same():
    tiny = [0.1 + seed / 100 for seed in range(11)]
    assert stats.wilcoxon(tiny).pvalue < 0.001
    verdict, said = same(accuracy_pairs(lambda lr, seed: tiny[seed - 1], range(1, 12)))
    assert verdict == "holds"
    assert said.startswith("after - before: median +0.15 points [+0.1")
    assert said.endswith("over 22 pairs, margin 0.77; p = 0.000, Holm 0.000 for a difference within it")


def test_five_pairs_are_the_fewest_that_can_be_significant():
    four, five = (stats.wilcoxon(range(1, n + 1), alternative="greater").pvalue for n in (4, 5))
    assert four >= 0.05 > five
    assert same(epoch_pairs([(200, 200)] * 5), "same-grokking")[0] == "holds"
    assert same(epoch_pairs([(200, 200)] * 4), "same-grokking") == ("too few seeds to say", "after - before: 4 pairs")
    assert same(epoch_pairs([(200, 400)] * 5), "same-grokking")[0] == "does not hold"
    assert same(epoch_pairs([(200, 200)] * 5), "same-grokking", complete=False) == ("runs missing", "")


def test_a_run_that_never_got_there_differs_by_more_than_any_other_and_two_of_them_say_nothing():
    assert same(epoch_pairs([(200, 200)] * 5 + [(None, None)]), "same-grokking")[0] == "holds"
    assert same(epoch_pairs([(200, None)] * 5), "same-grokking")[0] == "does not hold"
    assert same(epoch_pairs([(None, 200)] * 5), "same-grokking")[0] == "does not hold"
    assert same(epoch_pairs([(200, 200)] * 4 + [(200, None)]), "same-grokking")[0] == "undecided"
    assert same(epoch_pairs([(None, None)] * 6), "same-grokking") == ("too few seeds to say", "after - before: 0 pairs")
    assert same(accuracy_pairs(lambda lr, seed: None))[0] == "does not hold"  # diverged


def test_differences_exactly_as_large_as_the_margin_are_undecided():
    definition = EVALUATE_AT | {"parts": [part | {"margin": {"mini": 20}} for part in EVALUATE_AT["parts"]]}
    verdicts = judge(definition, "mini", epoch_pairs([(200, 220)] * 6), complete=True)
    assert verdicts[0].verdict == "undecided"


def test_a_pair_is_two_runs_of_one_seed_and_learning_rate():
    runs = accuracy_pairs(lambda lr, seed: 100 * lr + seed, (1, 2)) + epoch_pairs([(200, 230), (210, None)])
    runs.append(run("adamcpr_ws", 3, {"top1_accuracy": 80.0}, lr=1e-3, task="cifar100", evaluate_at="before"))
    table = every_pair(EVALUATE_AT, random.Random(0).sample(runs, len(runs))).astype(object).fillna("none")
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
    rows = pair_table(EVALUATE_AT, runs).drop(columns=["task", "score"]).to_numpy().tolist()
    assert rows == [
        ["1e-3.0", 1, "200.00", "- (1 without)", "- (1 without)"],
        ["1e-3.0", 3, "80.00 ± 0.00", "82.00 ± 1.00", "+2.00 ± 1.00"],
        ["1e-2.0", 3, "80.00 ± 0.00", "82.50 ± 0.71 (1 without)", "+2.50 ± 0.71 (1 without)"],
    ]


def test_the_figure_has_a_panel_a_task_and_a_point_a_pair():
    runs = accuracy_pairs(lambda lr, seed: seed, (1, 2, 3)) + epoch_pairs([(200, 230), (210, None)])
    panels = pair_figure(EVALUATE_AT, "mini", runs, "a footer").axes
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
    for axes, task in zip(panels, MARGIN, strict=True):
        (band,) = (area for area in axes.collections if not area.get_label().startswith("lr"))
        corners = band.get_paths()[0].vertices
        assert {round(y - x, 6) for x, y in corners} == {-MARGIN[task], MARGIN[task]}
