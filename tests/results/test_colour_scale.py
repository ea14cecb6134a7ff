"""Colours of heat maps: noise stays pale, far-off cells don't use up the scale, and white is the baseline's best cell."""

import math
import random

import pandas as pd
import pytest
from made_runs import FIGURE2, artefact, either_metric, measured_by

from results.colour_scale import FEWEST, MOST, SAME, baseline, colour_scale, pooled_std
from results.heat_maps import HeatMap
from results.layouts.heatmap_figure import COLOURS
from results.runs import best_cell, comparable
from results.schema import Artefact, at_scale


def heat_map(means, stds, *, panel: int = 0, side: str = "ours", definition: Artefact = FIGURE2) -> HeatMap:
    rows = [(1e-3, str(number), mean, std, 3, 0) for number, (mean, std) in enumerate(zip(means, stds, strict=True))]
    cells = pd.DataFrame(rows, columns=["row", "column", "mean", "std", "seeds", "diverged"])
    return HeatMap(definition.panels[panel], side, cells, best_cell(cells, definition.metric.better))


def luminance(colour) -> float:
    """Return WCAG's relative luminance."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def lightness(colour) -> float:
    """Return L* of CIELAB, 0 (black) to 100 (white)."""
    light = luminance(colour)
    return 116 * light ** (1 / 3) - 16 if light > 0.008856 else 903.3 * light


@pytest.mark.parametrize("seed", range(20))
def test_a_standard_deviation_over_seeds_spans_at_most_a_sixth_of_the_colours(seed):
    draw = random.Random(seed)
    maps = [
        heat_map([draw.gauss(75, draw.choice([0.1, 5])) for _ in range(9)], [draw.uniform(0.1, 2) for _ in range(9)], panel=panel)
        for panel in range(3)
    ]  # fmt: skip
    limit = colour_scale(FIGURE2, maps).limit
    std = pooled_std([one.cells for one in maps], higher=True)
    assert 3 * std - 1e-9 <= limit <= 8 * std + 1e-9
    assert (FEWEST, MOST) == (3, 8)


def test_two_cells_one_standard_deviation_apart_have_nearly_the_same_colour():
    step = 1 / (2 * FEWEST)  # of the colours, where the scale ends at three standard deviations
    for place in (number / 100 for number in range(0, 84)):
        pair = COLOURS(place), COLOURS(place + step)
        assert abs(lightness(pair[0]) - lightness(pair[1])) < 14
        assert max(abs(a - b) for a, b in zip(*pair, strict=True)) < 0.27


def test_black_text_is_readable_on_every_colour_and_the_middle_is_white():
    ratios = [(luminance(COLOURS(place / 100)) + 0.05) / 0.05 for place in range(101)]
    assert min(ratios) > 6  # WCAG's AA wants 4.5
    assert COLOURS(0.5)[:3] == pytest.approx([int(SAME[i : i + 2], 16) / 255 for i in (1, 3, 5)], abs=0.02)


@either_metric
def test_blue_is_better_and_the_best_cell_of_the_baseline_is_white(better):
    definition = measured_by(better)
    sign = 1 if better == "higher" else -1
    adamw, other = [70.0, 75.0, 72.0][::sign], [75.5, 74.0]
    scale = colour_scale(
        definition,
        [heat_map(adamw, [0.2] * 3, definition=definition), heat_map(other, [0.2] * 2, panel=2, definition=definition)],
    )
    best = max(adamw) if better == "higher" else min(adamw)
    assert [title for title, _ in scale.centres] == ["AdamW"] * 2
    assert scale.better_by[0].tolist() == [sign * (mean - best) for mean in adamw]
    assert scale.better_by[1].tolist() == [sign * (mean - best) for mean in other]
    assert (scale.better_by[1][0] > 0) == (better == "higher")


@pytest.mark.parametrize("far", [10.0, -1e3, -math.inf])
def test_cells_far_off_and_noisy_ones_among_them_leave_the_scale_as_it_is(far):
    near = [75.0, 74.8, 74.5, 74.9, 75.1]
    with_far = heat_map([*near, far, far], [0.3] * 5 + [40.0, 40.0])
    assert colour_scale(FIGURE2, [with_far]).limit == pytest.approx(3 * 0.3)


@pytest.mark.parametrize(("std", "limit"), [(2.0, 6.0), (1.0, 5.0), (0.1, 0.8)])
def test_the_scale_ends_at_the_median_cell_but_not_below_3_nor_above_8_standard_deviations(std, limit):
    means = [75 - number for number in range(11)]
    assert colour_scale(FIGURE2, [heat_map(means, [std] * 11)]).limit == pytest.approx(limit)


def test_without_standard_deviations_or_differences_the_scale_still_has_a_range():
    pair = heat_map([75.0, 75.1], [math.nan] * 2)
    assert colour_scale(FIGURE2, [pair]).limit == FIGURE2.metric.near_at("mini") == 1.0
    nothing = colour_scale(FIGURE2, [heat_map([], []), heat_map([], [], panel=1)])
    assert nothing.centres == [None, None] and nothing.limit > 0


def test_ours_and_the_published_have_a_white_cell_each():
    maps = [heat_map([70.0, 71.0], [0.1, 0.1]), heat_map([18.0, 17.0], [0.1, 0.1], side="published")]
    assert [cell["mean"] for _, cell in colour_scale(FIGURE2, maps).centres] == [71.0, 18.0]


def baselines(name: str, scale: str) -> list[list[str]]:
    """Return the names of the baseline's panels of each group of comparable panels."""
    definition = at_scale(artefact(name), scale)
    groups: dict = {}
    for panel in definition.panels:
        groups.setdefault(comparable(panel), []).append(panel)
    return [[panel.name for panel in baseline(definition, group)] for group in groups.values()]


@pytest.mark.parametrize(
    ("name", "scale", "wanted"),
    [
        ("figure2", "mini", [["adamw"]]),  # named on the right of its claims
        ("figure3", "paper", [["adamw"], ["adamw-m"]]),  # one for each model
        ("figure_e1", "mini", [["k", "ki0", "ws"]]),
        ("resnet50", "mini", [["adamw", "sgd"]]),
        ("figure_k1", "paper", [["adamw"], ["adamw-arithmetic"], ["adamw-mmlu"], ["adamw-piqa"], ["adamw-truthfulqa"]]),
        ("figure_c1", "mini", [["ws", "ki0"]]),  # no claim compares two panels
    ],
)
def test_the_baseline_is_what_claims_compare_with(name, scale, wanted):
    assert baselines(name, scale) == wanted
