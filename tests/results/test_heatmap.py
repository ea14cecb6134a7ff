"""Heat maps: panels, colours, the mark of the best cell, and rows of panels."""

import itertools
import statistics

import pytest
from made_runs import FIGURE2, LRS, SEEDS, SETTINGS, artefact, changed, either_metric, figure2_data, measured_by, noisy
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from test_artefact_grids import planned

from results.cells import cell_table
from results.layouts import heatmap
from results.schema import Artefact, at_scale


def panels(figure: Figure) -> list[list]:
    """Return the axes of each row of panels, without the colour bars."""
    return [[axes for axes in part.axes if axes.images] for part in figure.subfigs]


def of_figure2(better: str, value, scale: str = "mini") -> Figure:
    return figure_of(at_scale(measured_by(better), scale), figure2_data(value))


def figure_of(definition: Artefact, data) -> Figure:
    return heatmap.figure(definition, cell_table(definition, data, seeds=3), [], "40 images", "a footer")


def scales(rows: list[list]) -> list[tuple[float, float]]:
    """Return the values at the ends of each row's colour scale."""
    return [only for row in rows for (only,) in [{axes.images[0].get_clim() for axes in row}]]


def means(axes) -> list:
    """Return the texts in the middle of the cells. Standard deviations are smaller."""
    return [text for text in axes.texts if text.get_fontsize() == 8]


def stds(axes) -> list:
    return [text for text in axes.texts if text.get_fontsize() < 8]


@either_metric
def test_the_heat_map_has_a_panel_a_method_and_one_colour_scale_for_ours_and_for_the_published(better):
    rows = panels(of_figure2(better, noisy))
    titles = ["AdamW", "AdamCPR Kappa-IP", "AdamCPR Kappa-WS"]
    assert [[axes.get_title() for axes in row] for row in rows] == [titles, titles]
    assert all(low == -high for low, high in scales(rows))
    assert [t.get_text() for t in rows[0][0].get_yticklabels()] == ["$10^{-3}$", "$10^{-2.5}$", "$10^{-2}$"]
    assert [t.get_text() for t in rows[0][0].get_xticklabels()] == ["0", "0.001", "0.01", "0.1"]
    assert [t.get_text() for t in rows[1][2].get_xticklabels()] == ["0.5x", "1x", "2x", "4x", "8x", "16x", "32x"]
    of_cells = {
        name: [[[noisy(name, lr, setting, seed) for seed in SEEDS] for setting in settings] for lr in LRS]
        for name, settings in SETTINGS.items()
    }
    whites = [statistics.mean(scores) for row in of_cells["adamw"] for scores in row]
    white, sign = (max(whites), 1) if better == "higher" else (min(whites), -1)
    for axes, cells in zip(rows[0], of_cells.values(), strict=True):
        values = [[statistics.mean(scores) for scores in row] for row in cells]
        shown = axes.images[0].get_array().tolist()
        assert shown == [pytest.approx([sign * (value - white) for value in row]) for row in values]
        assert [t.get_text() for t in means(axes)] == [f"{value:.1f}" for row in values for value in row]
        assert [t.get_text() for t in stds(axes)] == [f"±{statistics.stdev(s):.2f}" for row in cells for s in row]
    assert "±0.26" in [t.get_text() for t in stds(rows[1][0])]  # the paper's best AdamW


def test_the_title_names_our_data_and_the_rows_name_the_white_cell():
    figure = of_figure2("higher", noisy)
    assert figure.get_suptitle().replace("\n", " ") == f"{FIGURE2.title}, here on 40 images (mini scale)"
    ours, published = (part.get_suptitle().replace("\n", " ") for part in figure.subfigs)
    assert ours.startswith("ours. White: the best of AdamW (")
    assert published == f"published: {FIGURE2.published_as}. White: the best of AdamW (75.4)"


def test_all_texts_of_a_cell_are_inside_it_and_apart():
    figure = of_figure2("higher", noisy)
    figure.draw_without_rendering()
    for axes in itertools.chain(*panels(figure)):
        small = {text.xy: text.get_window_extent() for text in stds(axes)}
        for text in means(axes):
            x, y = text.xy
            cell = axes.transData.transform_bbox(Bbox([[x - 0.5, y + 0.5], [x + 0.5, y - 0.5]]))
            boxes = [text.get_window_extent(), small[x, y]]
            assert all(cell.x0 < box.x0 and box.x1 < cell.x1 and cell.y0 < box.y0 and box.y1 < cell.y1 for box in boxes)
            assert not boxes[0].overlaps(boxes[1])


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
        shown = {text.xy: text.get_text() for text in means(axes)}
        whole = {place: float(text) for place, text in shown.items() if text != "div." and not text.endswith("*")}
        assert whole[x, y] == {"higher": max, "lower": min}[better](whole.values())
    ours = [t.get_text() for t in means(rows[0][2])]
    assert ours[0] == {"higher": "99.0*", "lower": "1.0*"}[better]
    assert ours[2] == "div."


@either_metric
def test_ours_and_the_published_share_their_colours_only_where_they_are_of_one_data_set(better):
    ours, published = scales(panels(of_figure2(better, noisy)))
    assert ours != published
    together = panels(of_figure2(better, noisy, scale="paper"))
    assert set(scales(together)) == {max(ours, published, key=lambda ends: ends[1])}


def drawn(name: str, scale: str) -> Figure:
    definition, runs = at_scale(artefact(name), scale), planned(name, scale)
    return heatmap.figure(definition, heatmap.table(definition, runs, 3), runs, "some images", "a footer")


@pytest.mark.parametrize(
    ("name", "rows", "scale"), [("figure_e1", 2, "mini"), ("figure_e3", 3, "mini"), ("figure_e1", 2, "paper")]
)
def test_many_panels_stand_in_several_rows_each_above_the_paper_s(name, rows, scale):
    figure = drawn(name, scale)
    titles = [panel.title for panel in artefact(name).panels]
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
    figure = figure_of(changed(FIGURE2, panels_per_row=5), figure2_data(noisy))
    assert [len(row) for row in panels(figure)] == [3, 3]
