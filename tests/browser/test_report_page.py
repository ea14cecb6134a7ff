"""A reader can use the report page's figures, hover texts, clicks and filters."""

import json

import pytest
from commands import ROOT
from driving import (
    COMMITTED,
    NOT_RUN,
    all_drawn,
    artefacts_of,
    drawn,
    hover_text,
    opened,
    point_at,
    too_wide,
    visible,
    visible_point,
)
from made_records import mini_artefacts

from results import model_sizes
from results.step_times import TITLES


def test_every_artefact_has_a_figure_its_findings_and_its_command(page):
    assert set(artefacts_of(page)) == {*mini_artefacts(), model_sizes.NAME, *TITLES}
    for name in artefacts_of(page):
        section = page.locator(f"#{name}")
        assert section.locator(".findings").count() == 1, name
        assert section.locator(".command").inner_text() == f"make reproduce-{name}"
        drawn(page, name)
        plot = section.locator(".plot").first
        assert plot.locator("svg").count() and plot.bounding_box()["height"] > 100, name
        assert page.evaluate("name => document.querySelector(`#${name} .plot`).data.length", name), name
    assert page.locator("#figure4 .heatmaplayer image, #figure4 .heatmaplayer path").count()
    assert page.locator("#grokking .scatterlayer .trace").count() > 5


def test_the_page_names_the_state_of_every_artefact(page):
    assert page.locator(f"#{COMMITTED} .state").inner_text().startswith("from the committed files")
    assert page.locator(f"#{NOT_RUN} .state").inner_text().startswith("runs missing")
    assert page.locator("#figure2 .state").inner_text().startswith("from records")


def test_pointing_at_a_cell_shows_its_seeds_and_a_click_shows_its_runs(page):
    place = point_at(page, "figure4-0", 1, 0)
    hover = hover_text(page, "figure4-0")
    ids = page.evaluate("document.querySelector('[data-figure=\"figure4-0\"]').data[0].customdata[0][1]").split()
    assert len(ids) == 2 and all(name in hover for name in ids)
    assert all(word in hover for word in ("mean", "seed 1", "seed 2", "regularizer.weight_decay="))
    page.mouse.click(*place)
    page.wait_for_selector("#runs[open] #dynamics svg")
    text = page.locator("#runs").inner_text()
    assert all(name in text for name in ids) and "abc1234" in text
    page.wait_for_function(
        "document.querySelectorAll('#dynamics .scatterlayer .trace').length === 2"
    )  # R of two seeds, since AdamW has no bound
    page.keyboard.press("Escape")
    page.wait_for_selector("#runs", state="hidden")


@pytest.mark.parametrize("figure", ["evaluate_at-0", "figure1-0", "figure1-1", "grokking-0", "figure5-0"])
def test_pointing_at_a_line_or_dot_names_it_and_a_click_shows_its_runs(page, figure):
    """Check pairs, the two figures of budgets, curves, and dynamics."""
    drawn(page, figure.rpartition("-")[0])
    x, y, ids = visible_point(page, figure)
    place = point_at(page, figure, x, y)
    hover = hover_text(page, figure)
    assert "seed" in hover and all(name in hover for name in ids.split()), (ids, hover)
    page.mouse.click(*place)
    page.wait_for_selector("#runs[open] #runs-table td")
    text = page.locator("#runs").inner_text()
    assert all(name in text for name in ids.split()) and f"{len(ids.split())} run" in text


def test_pointing_at_a_step_time_shows_method_ratio_and_rounds(page):
    drawn(page, "table_i2")
    figure = page.evaluate("document.querySelector('#table_i2 .plot').dataset.figure")
    trace = page.evaluate("document.querySelector('#table_i2 .plot').data[0]")
    point_at(page, figure, trace["x"][0], trace["y"][0])
    hover = hover_text(page, figure)
    rounds = json.loads((ROOT / "results/mini/table_i2/rounds.json").read_text())["shapes"]["toy"]["optimizer_step"][
        "rounds"
    ]
    assert trace["y"][0] in hover and f"{trace['x'][0]:.3f} x fused AdamW" in hover and f" {rounds} rounds" in hover


def test_a_click_on_a_curve_shows_r_kappa_and_lambda_of_its_run(page):
    drawn(page, "figure5")
    trace = page.evaluate(
        "(({x, y, name}) => ({x: x[2], y: y[2], name}))(document.querySelector('[data-figure=\"figure5-0\"]').data[0])"
    )
    page.mouse.click(*point_at(page, "figure5-0", trace["x"], trace["y"]))
    page.wait_for_selector("#runs[open] #dynamics svg")
    page.wait_for_function("document.querySelectorAll('#dynamics .scatterlayer .trace').length >= 3")
    assert page.evaluate("document.getElementById('dynamics').data.map(t => t.yaxis)")[:3] == ["y", "y", "y2"]
    before = page.evaluate("document.getElementById('dynamics').data[0].y")
    page.select_option("#matrix", index=3)
    assert page.evaluate("document.getElementById('dynamics').data[0].y") != before


def test_the_runs_can_be_opened_with_the_keyboard_alone(page):
    page.locator("#grokking details.runs summary").press("Enter")
    button = page.locator("#grokking details.runs button").first
    button.press("Enter")
    page.wait_for_selector("#runs[open]")
    assert "on grokking: 1 run" in page.locator("#runs-title").inner_text()


def test_filters_by_task_and_by_method(page):
    every = visible(page, "section.artefact")
    page.select_option("#task", "grokking")
    assert set(visible(page, "section.artefact")) == {"grokking", "evaluate_at"}
    assert page.locator("#shown").inner_text() == f"2 of {len(every)} artefacts"
    page.select_option("#task", "lora")
    page.select_option("#method", "adamcpr_ws")
    drawn(page, "figure4")
    assert visible(page, "#figure4 h3") == ["AdamCPR Kappa-WS"]
    assert visible(page, "#claims tbody tr") and all(
        "AdamCPR WS" in row or "WS" in row for row in visible(page, "#claims tbody tr")
    )
    page.select_option("#task", "")
    page.select_option("#method", "rescaling")
    drawn(page, "grokking")
    shown = page.evaluate("document.querySelector('#grokking .plot').data.filter(t => t.visible).map(t => t.meta)")
    assert shown and set(shown) == {"rescaling"}
    page.select_option("#method", "")
    assert visible(page, "section.artefact") == every


@pytest.mark.parametrize(
    "path", [ROOT / "results" / scale / "index.html" for scale in ("mini", "paper")], ids=lambda path: path.parent.name
)
def test_the_committed_page_is_complete_at_every_width(browser, path):
    if not path.exists():
        pytest.skip(f"no {path.relative_to(ROOT)}")
    with opened(browser, path) as page:
        for width in (390, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            all_drawn(page)
            assert too_wide(page) == []
        assert {*mini_artefacts(), model_sizes.NAME, *TITLES} <= set(artefacts_of(page))
        without = "[...document.querySelectorAll('section.artefact')].filter(s => !s.querySelector('.findings, .verdicts')).map(s => s.id)"
        assert page.evaluate(without) == []
        blank = "[...document.querySelectorAll('.plot, .static img')].filter(e => e.getBoundingClientRect().height < 100).length"
        assert page.evaluate(blank) == 0
