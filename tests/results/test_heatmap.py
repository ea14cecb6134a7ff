"""Heat maps: panels, colours, the mark of the best cell, and rows of panels."""

import itertools
import statistics

import pytest
from made_runs import FIGURE2, LRS, SEEDS, SETTINGS, artefact, either_metric, figure2_data, measured_by, noisy
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from test_artefact_grids import planned

from results.artefact import at_scale
from results.heatmap import heatmap_figure
from results.runs import frame


def panels(figure: Figure) -> list[list]:
    """Return the axes of each row of panels, without the colour bars."""
    return [[axes for axes in part.axes if axes.images] for part in figure.subfigs]


def of_figure2(better: str, value, **options) -> Figure:
    return heatmap_figure(measured_by(better), figure2_data(value), "40 images", "a footer", **options)


def scales(rows: list[list]) -> list[tuple[float, float]]:
    """Return the values at the ends of each row's colour scale."""
    return [only for row in rows for (only,) in [{axes.images[0].get_clim() for axes in row}]]


@either_metric
def test_the_heat_map_has_a_panel_a_method_and_one_colour_scale_for_ours_and_for_the_published(better):
    rows = panels(of_figure2(better, noisy))
    titles = ["AdamW", "AdamCPR Kappa-IP", "AdamCPR Kappa-WS"]
    assert [[axes.get_title() for axes in row] for row in rows] == [titles, titles]
    for row, (low, high) in zip(rows, scales(rows), strict=True):
        means = [mean for axes in row for mean in axes.images[0].get_array().ravel()]
        best, end = (max(means), high) if better == "higher" else (min(means), low)
        assert low < high
        assert end == best
        assert {axes.images[0].cmap(axes.images[0].norm(best)) for axes in row} == {colormaps["viridis"](1.0)}
    assert [t.get_text() for t in rows[0][0].get_yticklabels()] == ["1e-3.0", "1e-2.5", "1e-2.0"]
    assert [t.get_text() for t in rows[0][0].get_xticklabels()] == ["0", "0.001", "0.01", "0.1"]
    assert [t.get_text() for t in rows[1][2].get_xticklabels()] == ["0.5x", "1x", "2x", "4x", "8x", "16x", "32x"]
    for axes, (name, settings) in zip(rows[0], SETTINGS.items(), strict=True):
        means = [
            [statistics.mean(noisy(name, lr, setting, seed) for seed in SEEDS) for setting in settings] for lr in LRS
        ]
        assert axes.images[0].get_array().tolist() == [pytest.approx(row) for row in means]
        assert [t.get_text() for t in axes.texts] == [f"{mean:.1f}" for row in means for mean in row]


@either_metric
def test_one_rectangle_marks_the_best_whole_cell_of_every_panel(better):
    def value(name, lr, setting, seed):
        if (lr, setting) == (LRS[0], "4x"):
            return None
        if (lr, setting) == (LRS[0], "1x"):  # the best cell, except for one run
            return None if seed == 1 else {"higher": 99.0, "lower": 1.0}[better]
        return noisy(name, lr, setting, seed)

    rows = panels(of_figure2(better, value))
    for axes in itertools.chain(*rows):
        (mark,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
        x, y = (round(corner + 0.5) for corner in mark.get_xy())
        shown = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text() for t in axes.texts}
        whole = {place: float(text) for place, text in shown.items() if text != "div." and not text.endswith("*")}
        assert whole[x, y] == {"higher": max, "lower": min}[better](whole.values())
    ours = [t.get_text() for t in rows[0][2].texts]
    assert ours[0] == {"higher": "99.0*", "lower": "1.0*"}[better]
    assert ours[2] == "div."


@either_metric
def test_ours_and_the_published_share_their_colours_only_where_they_are_of_one_data_set(better):
    ours, published = scales(panels(of_figure2(better, noisy)))
    assert ours != published
    together = panels(of_figure2(better, noisy, one_scale=True))
    assert len(set(scales(together))) == 1
    (low, high), *_ = scales(together)
    assert {"higher": high, "lower": low}[better] == {"higher": max, "lower": min}[better](
        mean for axes in itertools.chain(*together) for mean in axes.images[0].get_array().ravel()
    )


def drawn(name: str, scale: str) -> Figure:
    definition, runs = at_scale(artefact(name), scale), planned(name, scale)
    return heatmap_figure(
        definition, frame(runs, definition["metric"]["name"]), "some images", "a footer", one_scale=scale == "paper"
    )


@pytest.mark.parametrize(
    ("name", "rows", "scale"), [("figure_e1", 2, "mini"), ("figure_e3", 3, "mini"), ("figure_e1", 2, "paper")]
)
def test_many_panels_stand_in_several_rows_each_above_the_paper_s(name, rows, scale):
    figure = drawn(name, scale)
    titles = [panel["title"] for panel in artefact(name)["panels"]]
    of_rows = panels(figure)
    assert [[axes.get_title() for axes in row] for row in of_rows] == [
        titles[3 * number : 3 * number + 3] for number in range(rows) for _ in range(2)
    ]
    of_ours, of_published = (set(scales(of_rows[side::2])) for side in (0, 1))
    assert len(of_ours) == len(of_published) == 1
    assert (of_ours == of_published) == (scale == "paper")
    assert figure.get_figwidth() < 17  # 8 points are 6.5 pixels of a page that is 1,000 wide


def test_no_title_is_cut_or_runs_into_its_neighbour():
    figure = drawn("figure_e3", "mini")
    figure.draw_without_rendering()
    whole = figure.bbox
    for part in figure.subfigs:
        titles = [axes.title.get_window_extent() for axes in part.axes if axes.images]
        assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in titles)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(titles))


def test_fewer_panels_than_a_row_has_room_for_stand_in_one():
    figure = heatmap_figure(FIGURE2 | {"panels_per_row": 5}, figure2_data(noisy), "40 images", "a footer")
    assert [len(row) for row in panels(figure)] == [3, 3]
