"""Claims judged together: Holm's correction, intervals of differences, and claims.csv."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import CPR, FIGURE2, GROKKING, LRS, ROOT, SEEDS, curve, grid, noisy
from scipy import stats

from results.claims import judge
from results.differences import interval, least_signed_rank, median_of
from results.verdicts import Finding, Verdict, decide, from_csv, to_csv

CLAIM = {"id": "a", "text": "a > b", "published": "-"}


def decided(*findings: Finding | None) -> list[str]:
    return [verdict.verdict for verdict in decide([CLAIM] * len(findings), findings)]


def paired(p: float, pairs: int = 9, towards: str | None = "holds") -> Finding:
    return Finding("said", p, least_signed_rank(pairs), towards)


def test_a_claim_is_judged_among_the_others():
    assert decided(paired(0.03)) == ["holds"]
    assert decided(paired(0.03), paired(0.03)) == ["undecided", "undecided"]
    assert decided(paired(0.03), paired(0.02, towards="does not hold")) == ["holds", "does not hold"]
    assert decided(paired(0.03), paired(0.02, towards=None)) == ["holds", "undecided"]  # Holm's p of both is below 0.05
    (first, second) = decide([CLAIM] * 2, [paired(0.03), paired(0.04)])
    assert (first.ours, second.ours) == ("said; p = 0.030, Holm 0.060", "said; p = 0.040, Holm 0.060")
    assert (first.p, first.p_holm) == (0.03, pytest.approx(0.06))


def test_a_claim_that_cannot_be_significant_alone_costs_the_others_nothing():
    assert decided(paired(0.03), Finding("4 pairs"), None) == ["holds", "too few seeds to say", "runs missing"]


def test_six_pairs_are_too_few_for_two_claims_unless_the_other_is_significant():
    least = least_signed_rank(6)
    assert 0.025 < least < 0.05
    assert decided(paired(least, 6), paired(least, 6)) == ["too few seeds to say"] * 2
    assert decided(paired(least, 6), paired(0.004)) == ["holds", "holds"]
    assert decided(paired(0.2, 6), paired(0.004)) == ["undecided", "holds"]
    assert decided(paired(0.2, 6), paired(0.2)) == ["too few seeds to say", "undecided"]


def test_made_runs_are_judged_by_what_is_left_of_p_after_four_claims():
    """WS leads AdamW by 1 in all pairs but the last. This is significant alone, but not among four claims."""
    behind = {(LRS[0], 1), (LRS[1], 2)}

    def value(name, lr, setting, seed):
        return noisy(lr, seed) + (
            0 if name != "adamcpr_ws" else -0.5 if (lr, seed) in behind else 1 + LRS.index(lr) + seed / 10
        )

    alone = FIGURE2 | {"claims": FIGURE2["claims"][:1]}
    (by_itself,) = judge(alone, "mini", grid(value), complete=True)
    together = judge(FIGURE2, "mini", grid(value), complete=True)
    assert by_itself.verdict == "holds" and by_itself.p == by_itself.p_holm < 0.05
    assert (
        together[0].verdict == "undecided"
        and together[0].p == by_itself.p
        and together[0].p_holm == pytest.approx(4 * by_itself.p)
    )
    assert together[0].pairs == 9 and together[2].pairs is None  # claims about cells have no pairs


def test_the_interval_is_scipy_s_of_the_plain_differences():
    lead = dict(zip(itertools.product(LRS, SEEDS), (1.2, -0.3, 0.8, 2.5, 0.1, 1.1, -0.9, 0.4, 3.0), strict=True))
    runs = grid(lambda name, lr, setting, seed: 80 + (lead[lr, seed] if name == "adamcpr_ws" else 0))
    found = stats.bootstrap(
        (sorted(lead.values()),), np.median, n_resamples=1999, method="BCa", rng=np.random.default_rng(0)
    )
    verdict = judge(FIGURE2, "mini", runs, complete=True)[0]
    low, high = found.confidence_interval
    assert (verdict.low, verdict.high) == (pytest.approx(low), pytest.approx(high))
    assert f"median difference +0.80 [{low:+.2f}, {high:+.2f}] over 9 pairs" in verdict.ours


@given(st.lists(st.integers(-1000, 1000), min_size=6, max_size=30), st.integers(-1000, 1000), st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_interval_is_of_the_differences_and_not_of_their_order_or_place(values, shift, order):
    ends = interval(pd.Series(values))
    assert ends is not None and min(values) <= ends[0] <= ends[1] <= max(values)
    moved = [value + shift for value in values]
    order.shuffle(moved)
    assert interval(pd.Series(moved)) == pytest.approx([end + shift for end in ends])


def test_where_the_interval_is_not_defined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interval(pd.Series([2.0] * 8)) == (2.0, 2.0)  # BCa is not
        assert interval(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0, float("inf")])) is None
        assert interval(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0])) is None
    assert median_of(pd.Series([1.0, 2.0, 3.0])).worded(" points") == "+2.00 points over 3 pairs"


def test_the_lead_in_epochs_has_an_interval():
    adamw = [method for method in GROKKING["methods"] if method["title"].startswith("AdamW")]
    runs = [curve(CPR, seed, 16) for seed in range(6)] + [
        curve(method, seed, 40) for seed in range(6) for method in adamw
    ]
    (verdict,) = judge(GROKKING, "mini", runs, complete=True)
    assert (
        verdict.ours
        == "sooner in 6 of 6 seeds; median lead +3.00 epochs [+3.00, +3.00] over 6 pairs; p = 0.031, Holm 0.031"
    )


def test_claims_are_read_as_they_were_written_and_older_files_too():
    verdicts = judge(FIGURE2, "mini", grid(noisy), complete=True)
    assert from_csv(to_csv(verdicts)) == verdicts
    assert from_csv(to_csv([])) == from_csv("\n") == []
    assert all(verdict.p_holm is not None for verdict in verdicts)
    old = from_csv((ROOT / "results" / "mini" / "grokking" / "claims.csv").read_text())
    bare = 'claim,text,published,ours,verdict\na,a > b,-,"1 against 2, p = 0.5",undecided\n'
    assert from_csv(bare) == [Verdict("a", "a > b", "-", "1 against 2, p = 0.5", "undecided")]
    assert from_csv(to_csv([replace(verdicts[0], pairs=12), *old])) == [replace(verdicts[0], pairs=12), *old]
