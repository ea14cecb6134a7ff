"""Names beside the ends of lines, and learning rates on axes."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import GROKKING, SEEDS, curve
from matplotlib.figure import Figure

from results.layouts import curves
from results.line_labels import MOST, LineEnd, apart, name_lines, text_box
from results.ticks import in_math, lr_math, lr_text, typeset


def named(ends, names=None) -> Figure:
    """Return a figure of lines from 0 to these heights."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for end in ends:
        axes.plot([0, 1], [0, end])
    name_lines(figure, axes, [LineEnd(1, end, (names or {}).get(n, f"line {n}"), "C0") for n, end in enumerate(ends)])
    return figure


def boxes(figure: Figure) -> list:
    figure.draw_without_rendering()
    return [text_box(text) for axes in figure.axes for text in axes.texts if text.arrow_patch]


@pytest.mark.parametrize(
    "ends", [[1, 1, 1, 1, 1, 1], [0, 0.01, 0.02, 5, 5.01, 10], [3], [-1e-9, 0, 1e-9], [random.Random(0).random() for _ in range(6)]]
)  # fmt: skip
@pytest.mark.parametrize("name", ["", "a method with a long name, weight decay 0.1"])
def test_names_never_overlap_and_stay_beside_the_axes(ends, name):
    figure = named(ends, {0: name} if name else None)
    found = boxes(figure)
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    assert len(found) == len(ends)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))
    assert all(box.x0 > frame.x1 and box.x1 <= figure.bbox.x1 for box in found)
    assert all(frame.y0 - 1 <= box.y0 and box.y1 <= frame.y1 + 1 for box in found)
    order = sorted(range(len(ends)), key=lambda n: ends[n])
    heights = [(found[n].y0 + found[n].y1) / 2 for n in order]
    assert len(set(ends)) < len(ends) or heights == sorted(heights)


def test_a_name_with_room_stands_at_the_height_of_its_line_s_end():
    figure = named([2, 5, 8])
    (axes,) = figure.axes
    for box, end in zip(boxes(figure), (2, 5, 8), strict=True):
        assert (box.y0 + box.y1) / 2 == pytest.approx(axes.transData.transform((1, end))[1], abs=2)


def test_more_lines_than_six_have_a_legend_beside_the_axes():
    figure = named(range(MOST + 1))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"line {n}" for n in range(MOST + 1)]
    assert legend.get_window_extent().x0 >= figure.axes[0].get_window_extent().x1
    assert not figure.axes[0].texts


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 15)), min_size=1, max_size=6))
def test_boxes_are_apart_in_order_and_moved_only_where_they_must_be(asked):
    wanted, heights = [place for place, _ in asked], [height for _, height in asked]
    found = apart(wanted, heights, -20, 120)
    spans = sorted((place - height / 2, place + height / 2) for place, height in zip(found, heights, strict=True))
    assert all(high <= low + 1e-6 for (_, high), (low, _) in itertools.pairwise(spans))
    assert all(-20 - 1e-6 <= low and high <= 120 + 1e-6 for low, high in spans)
    alone = sorted((place - height / 2, place + height / 2) for place, height in asked)
    if all(high < low for (_, high), (low, _) in itertools.pairwise(alone)):
        assert found == pytest.approx(wanted)


def test_the_names_of_grokking_s_methods_do_not_overlap_where_all_curves_end_alike():
    runs = [curve(method, seed, 8 * seed) for method in GROKKING.methods for seed in SEEDS]
    figure = curves.figure(GROKKING, curves.table(GROKKING, runs, 3), runs, "40 images", "a footer")
    found = boxes(figure)
    assert len(found) == 6 and not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize(
    ("lr", "text", "math"),
    [
        (1e-3, "10⁻³", "$10^{-3}$"),
        (3.162e-3, "10⁻²·⁵", "$10^{-2.5}$"),
        (10**-3.5, "10⁻³·⁵", "$10^{-3.5}$"),
        (1.0, "10⁰", "$10^{0}$"),
        (1.778e-3, "10⁻²·⁷⁵", "$10^{-2.75}$"),
        (3e-4, "3×10⁻⁴", r"$3\times10^{-4}$"),
        (3e-2, "0.03", "0.03"),
        (0.0, "0", "0"),
    ],
)
def test_quarter_decades_are_powers_of_ten_and_small_numbers_have_one(lr, text, math):
    assert (lr_text(lr), lr_math(lr)) == (text, math)


def test_learning_rates_inside_a_text_are_set_and_other_numbers_stay():
    said = "lr 1e-2.5, 0.001, 1e-05, 3e-05, 1e-3.0 and 2x"
    assert typeset(said) == "lr 10⁻²·⁵, 0.001, 10⁻⁵, 3×10⁻⁵, 10⁻³ and 2x"
    assert in_math(said) == r"lr $10^{-2.5}$, 0.001, $10^{-5}$, $3\times10^{-5}$, $10^{-3}$ and 2x"
