"""The report's forest plot, its three sentences and its counts, from made sections."""

import math
from dataclasses import replace

import pytest
from made_runs import artefact

from results.evidence.contenders import sides
from results.evidence.finding import AHEAD, BEHIND, MISSING, NOT_RESOLVED, NUMBERS, WITHIN, Finding
from results.evidence.published import published_lead
from results.report.cards import cards
from results.report.forest import forest, ticks_between, without_difference
from results.report.sections import NOT_RUN, RECORDS, Section
from results.report.summary import counts, sentences
from results.schema import at_scale


def found(difference=None, half=1.0, outcome=AHEAD, **more):
    low, high = (None, None) if difference is None else (difference - half, difference + half)
    return Finding("a", "A > B", "2 > 1", outcome, "A 2 against B 1", difference, low, high, **more)


def made(name, *findings, scale="small", unit="points", state=RECORDS, about="paper"):
    return Section(name, f"{name}: a title", scale, ("a",), ("b",), "make it", state, findings, about, unit)


def rows_of(*sections):
    return [row for group in forest(cards(sections)) for row in group.rows]


def test_a_row_stands_where_its_number_lies_between_the_ticks():
    (group,) = forest(cards([made("figure2", found(1.0), found(-2.0, paper=0.5))]))
    (first, left), *_, (last, right) = [(float(text.replace("−", "-")), place) for place, text in group.ticks]
    for row, number in zip(group.rows, (1.0, -2.0), strict=True):
        at = left + (number - first) / (last - first) * (right - left)
        assert row.mean == pytest.approx(at, abs=0.1) and row.low < row.mean < row.high and not row.cut
    assert [row.paper is None for row in group.rows] == [True, False]
    assert group.zero == pytest.approx({text: place for place, text in group.ticks}["0"])


def test_differences_in_other_units_have_other_axes():
    groups = forest(cards([made("figure2", found(1.0)), made("figure3", found(10.0), unit="perplexity")]))
    assert [(group.unit, len(group.rows)) for group in groups] == [("points", 1), ("perplexity", 1)]


def test_an_interval_far_wider_than_the_others_is_cut_and_leaves_them_visible():
    narrow = [found(float(number), 1.0) for number in range(3)]
    rows = rows_of(made("figure2", *narrow, found(1.0, 500.0)))
    assert [row.cut for row in rows] == [False, False, False, True]
    assert all(row.high - row.low > 5 for row in rows)


def test_the_strongest_scale_comes_first_and_sets_the_axis():
    weak = made("table1", found(0.0, 100.0, NUMBERS), scale="mini")
    strong = made("table2", found(0.5, 0.2))
    first, second = rows_of(weak, strong)
    assert first.section.scale == "small" and first.high - first.low > 20
    assert second.section.scale == "mini" and second.cut


def test_a_claim_is_shown_at_its_strongest_scale_alone():
    both = made("figure2", found(3.0, outcome=NUMBERS), scale="mini"), made("figure2", found(1.0))
    assert [row.finding.difference for row in rows_of(*both)] == [1.0]
    planned = made("figure2", found(outcome=MISSING), scale="paper", state=NOT_RUN)
    assert [row.finding.difference for row in rows_of(*both, planned)] == [1.0]


def test_a_scale_with_missing_runs_does_not_hide_a_complete_one():
    complete = made("table2", found(3.0, outcome=NUMBERS), scale="mini")
    begun = replace(made("table2", found(outcome=MISSING), state=NOT_RUN), runs=("a run",))
    (card,) = cards([begun, complete])
    assert (card.level, [row.finding.difference for row in rows_of(begun, complete)]) == ("mini", [3.0])


def test_claims_of_our_own_and_claims_without_a_difference_are_not_in_the_plot():
    own, other = made("evaluate_at", found(1.0), about="own"), made("grokking", found())
    assert rows_of(own, other) == []
    assert [row.section.name for row in without_difference(cards([own, other]))] == ["grokking"]


def test_an_infinite_interval_is_left_out():
    (row,) = rows_of(made("figure2", found(1.0, math.nan)))
    assert row.low is None and row.high is None and row.mean is not None


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.003, 0.04), (-700, 20), (0, 1e-4)])
def test_ticks_are_round_few_and_have_zero(low, high):
    ticks = ticks_between(low, high)
    assert 2 <= len(ticks) <= 7 and 0 in ticks and all(low <= tick <= high for tick in ticks)


def test_the_sentences_count_what_the_small_scale_says(tmp_path):
    small = made("figure2", found(1.0), found(-1.0, outcome=BEHIND), found(0.1, outcome=NOT_RESOLVED))
    mini = made("table1", found(5.0, outcome=NUMBERS), scale="mini")
    paper, direction, mechanism = sentences(cards([small, mini]), tmp_path)
    assert "no training result exists" in paper and "No task" in mechanism
    assert "1 of 3 claims point the paper's way, 1 the other way, and 1 are not resolved" in direction
    assert "No claim" in sentences(cards([mini]), tmp_path)[1]


def test_kinds_of_evidence_are_counted_apart(tmp_path):
    sections = [
        made("figure2", found(1.0)),
        made("evaluate_at", found(0.0), found(0.0), about="own"),
        made("table_i2", found(outcome=WITHIN), about="times", scale="mini"),
    ]
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "mechanism.csv").write_text("task,outcome\ngpt2,reproduced\nlora,differs\nlora,reproduced\n")
    numbers = {one.kind: one.number for one in counts(cards(sections), tmp_path)}
    assert numbers == {
        "Mechanism": "1 of 2",
        "Direction": "1",
        "Paper scale": "0",
        "Our questions": "2",
        "Times and sizes": "1 of 1",
    }


@pytest.mark.parametrize(
    ("name", "claim", "lead"),
    [
        ("figure2", "cifar-ws", 1.2),
        ("figure3", "gpt2s-ip", 0.26),
        ("figure2", "cifar-2x", 0.4),
        ("figure_k1", "lora-arithmetic", 1.3),
    ],
)
def test_the_paper_s_own_difference_is_that_of_its_best_cells(name, claim, lead):
    """Figure 2: 76.6 against 75.4. Figure 3: 17.97 against 18.23, where lower is better."""
    definition = at_scale(artefact(name), "paper")
    one = next(one for one in definition.claims if one.id == claim)
    assert published_lead(definition, *sides(one)) == lead


def test_a_claim_whose_cell_another_score_chooses_has_no_published_difference():
    definition = at_scale(artefact("figure_k1"), "mini")
    (one,) = definition.claims
    assert one.chosen_by and published_lead(definition, *sides(one)) is None
