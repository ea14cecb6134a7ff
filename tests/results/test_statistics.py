"""Every test of results/statistics/ is simulated: null data, a planted effect, and pairs that are equal.

A rate over n simulations may exceed its nominal value by two Monte Carlo standard errors.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from results.statistics.arrival import Arrivals, logrank
from results.statistics.holm import holm
from results.statistics.improvement import probability_of_improvement
from results.statistics.paired import difference, power, visible_effect
from results.statistics.published import LEVEL as PUBLISHED_LEVEL
from results.statistics.published import welch
from results.statistics.same import is_same, sameness
from results.statistics.tuning import best_of, profile

DRAWS = 2000


def at_most(rate: float, nominal: float, draws: int = DRAWS) -> bool:
    return rate <= nominal + 2 * math.sqrt(nominal * (1 - nominal) / draws)


def near(rate: float, nominal: float, draws: int = DRAWS) -> bool:
    return abs(rate - nominal) <= 3 * math.sqrt(nominal * (1 - nominal) / draws)


@pytest.mark.parametrize("seeds", [8, 16])
def test_tuned_settings_of_equal_methods_differ_in_at_most_five_per_cent(seeds):
    """One method has 12 settings and the other a single one, all equally good. Two seeds tune, fresh seeds confirm.

    Choosing by the fresh seeds themselves flatters the method with more settings.
    """
    rng, false, flattered = np.random.default_rng(seeds), 0, 0
    for _ in range(DRAWS):
        shared = rng.normal(scale=0.3, size=seeds)  # a seed fixes initialization and the order of the data
        many, one = (shared + rng.normal(scale=0.3, size=(settings, seeds)) for settings in (12, 1))
        tuned = int(rng.normal(scale=0.3, size=(12, 2)).mean(axis=1).argmax())
        false += difference(many[tuned], one[0]).p < 0.05
        flattered += difference(many[many.mean(axis=1).argmax()], one[0]).p < 0.05
    assert at_most(false / DRAWS, 0.05)
    assert flattered / DRAWS > 0.1


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 8), (1.0, 8), (1.5, 8), (1.0, 16)])
def test_a_planted_effect_is_found_with_the_stated_power(effect, seeds):
    rng = np.random.default_rng(1)
    found = [difference(rng.normal(effect, 1, seeds), np.zeros(seeds)) for _ in range(DRAWS)]
    assert near(np.mean([one.p < 0.05 for one in found]), power(effect, seeds))
    assert power(effect, seeds) == pytest.approx(TTestPower().power(effect, seeds, 0.05), abs=1e-6)


def test_an_interval_covers_the_true_difference_in_95_per_cent():
    rng = np.random.default_rng(2)
    found = [difference(rng.normal(0.4, 1, 8), np.zeros(8)) for _ in range(DRAWS)]
    assert near(np.mean([one.low <= 0.4 <= one.high for one in found]), 0.95)


def test_eight_seeds_show_an_effect_of_1_2_standard_deviations():
    assert visible_effect(8) == pytest.approx(1.16, abs=0.02)
    assert power(visible_effect(16), 16) == pytest.approx(0.8)
    assert visible_effect(1) == math.inf


def test_a_difference_is_that_of_scipy_s_paired_test():
    left, right = np.random.default_rng(3).normal(size=(2, 9))
    found, theirs = difference(left, right), stats.ttest_rel(left, right)
    assert found is not None
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_a_diverged_run_or_a_single_seed_has_no_difference():
    assert difference([1.0, math.inf], [1.0, 2.0]) is None
    assert difference([1.0, math.nan], [1.0, 2.0]) is None
    assert difference([1.0], [2.0]) is None


def test_scores_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="1 scores can't be paired with 3"):
        difference([1.0], [2.0, 3.0, 5.0])


def test_equal_differences_need_no_test():
    assert difference([2.0, 3.0], [1.0, 2.0]).p == 0
    assert difference([2.0, 3.0], [2.0, 3.0]).p == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=8, deadline=None)  # statsmodels collects garbage at every call
def test_holm_is_that_of_statsmodels(p_values):
    corrected = holm(dict(enumerate(p_values)))
    assert [corrected[number] for number in range(len(p_values))] == pytest.approx(
        list(multipletests(p_values, method="holm")[1])
    )
    assert holm({}) == {}


def test_the_probability_of_improvement_counts_wins_over_all_pairs():
    assert probability_of_improvement([2, 3], [1, 2])[0] == 3.5 / 4
    assert probability_of_improvement([1.0], [0.0]) == (1.0, 0.0, 1.0)
    assert probability_of_improvement([1, 1, 2], [-math.inf, 0, 0]) == (1.0, 1.0, 1.0)


def test_the_interval_of_the_probability_of_improvement_covers_it():
    rng = np.random.default_rng(5)
    true, covered = stats.norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(100):
        _, low, high = probability_of_improvement(rng.normal(1, 1, 16), rng.normal(0, 1, 16))
        covered += low <= true <= high
    assert covered / 100 >= 0.88  # a percentile bootstrap of 16 runs is a little too narrow


def test_best_of_k_is_the_mean_best_of_k_draws():
    scores = [1.0, 4.0, 2.0, 8.0]
    curve, rng = best_of(scores, 0.0), np.random.default_rng(6)
    assert curve[0] == pytest.approx(np.mean(scores))
    for k, value in enumerate(curve, start=1):
        assert rng.choice(scores, size=(20000, k)).max(axis=1).mean() == pytest.approx(value, abs=0.07)
    assert best_of([1.0, -math.inf], worst=0.0)[0] == 0.5


def test_a_profile_counts_settings_near_the_best():
    assert profile([10.0, 9.5, 7.0, -math.inf], best=10.0, distances=[0, 0.5, 3]) == [0.25, 0.5, 0.75]


CONTROL = difference([1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.05, 0.95], [0.0] * 8)  # its lower limit is 0.9


def test_without_a_control_that_is_told_apart_nothing_is_the_same():
    weak = difference([0.5, -0.4, 0.6, -0.3], [0.0] * 4)
    for control in (None, weak):
        found = sameness([1.0, 1.1, 1.0], [1.0, 1.0, 1.1], control)
        assert found is not None and found.margin is None and is_same(found) is None


@pytest.mark.parametrize("std", [0.1, 0.3, 0.6])
def test_an_equal_pair_is_not_called_different_more_often_than_alpha(std):
    rng = np.random.default_rng(7)
    said = [is_same(sameness(rng.normal(0, std, 8), np.zeros(8), CONTROL)) for _ in range(DRAWS)]
    assert at_most(said.count(False) / DRAWS, 0.05)
    if std == 0.1:
        assert said.count(True) / DRAWS > 0.99


def test_a_pair_at_the_margin_is_called_the_same_in_at_most_alpha():
    margin, rng = sameness([0.0, 0.1], [0.0, 0.0], CONTROL).margin, np.random.default_rng(8)
    said = [is_same(sameness(rng.normal(margin, 0.1, 8), np.zeros(8), CONTROL)) for _ in range(DRAWS)]
    assert at_most(said.count(True) / DRAWS, 0.05)


def test_a_control_counts_with_either_sign():
    mirrored = difference([0.0] * 8, [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.05, 0.95])
    left, right = [0.1, 0.0, 0.2], [0.0, 0.1, 0.1]
    assert sameness(left, right, CONTROL).margin == pytest.approx(sameness(left, right, mirrored).margin)


def test_runs_that_never_arrive_count_as_late():
    early, late = Arrivals([100, 120, 140, 160, 180, 200], 400), Arrivals([390, None, None, None, 380, None], 400)
    assert logrank(early, late) < 0.01
    assert early.median == 140
    assert late.median == math.inf
    assert logrank(Arrivals([None, None], 400), Arrivals([None, None], 400)) == 1


def test_equal_arrivals_are_told_apart_in_at_most_five_per_cent():
    rng, draws, false = np.random.default_rng(9), 1000, 0
    for _ in range(draws):
        sides = []
        for _ in range(2):
            steps = rng.exponential(300, 12).astype(int) + 1
            sides.append(Arrivals([int(step) if step <= 400 else None for step in steps], 400))
        false += logrank(*sides) < 0.05
    # The test is asymptotic: with 12 runs a side it rejects a little more often than it says.
    assert false / draws <= 0.075


@pytest.mark.parametrize(("std", "seeds"), [(0.3, 3), (None, 1)])
def test_a_published_mean_of_the_same_runs_differs_in_at_most_one_per_cent(std, seeds):
    rng, differing = np.random.default_rng(10), 0
    for _ in range(DRAWS):
        printed = rng.normal(75, 0.3, seeds)
        spread = float(printed.std(ddof=1)) if std else None
        differing += welch(rng.normal(75, 0.3, 8), float(printed.mean()), spread, seeds) < PUBLISHED_LEVEL
    # Welch's degrees of freedom are an approximation, which is a little too bold with three published seeds.
    assert at_most(differing / DRAWS, 0.02 if std else 0.01)


def test_a_published_mean_far_away_differs_and_a_diverged_run_says_nothing():
    assert welch([75.1, 75.2, 75.0], 79.0, 0.1, 3) < PUBLISHED_LEVEL
    assert welch([75.1, 75.2, 75.0], 79.0, None, 1) < PUBLISHED_LEVEL
    assert welch([75.1, math.nan], 75.0, 0.1, 3) is None
    assert welch([75.1], 75.0, 0.1, 3) is None
