"""A reader can use the report page's cards, figures, hover texts, clicks and filter."""

import json

import pytest
from commands import ROOT
from driving import (
    COMMITTED,
    NOT_RUN,
    all_drawn,
    artefacts_of,
    cut,
    drawn,
    hover_text,
    opened,
    outside,
    overlapping,
    point_at,
    visible,
    visible_point,
)
from made_records import mini_artefacts

from results import model_sizes
from results.step_times import TITLES
from scripts.sweep.artefacts import known_artefacts


def test_every_artefact_has_a_card_with_its_figure_and_command(page):
    assert set(artefacts_of(page)) == {*known_artefacts(), model_sizes.NAME, *TITLES}
    for name in (*mini_artefacts(), model_sizes.NAME, *TITLES):
        card = page.locator(f"#{name}")
        drawn(page, name)
        assert card.locator(".command").first.inner_text() == f"make reproduce-{name}"
        plot = card.locator(".plot").first
        assert plot.locator("svg").count() and plot.bounding_box()["height"] > 100, name
        assert page.evaluate("name => document.querySelector(`#${name} .plot`).data.length", name), name
    assert page.locator("#figure4 .heatmaplayer image, #figure4 .heatmaplayer path").count()
    assert page.locator("#grokking .scatterlayer .trace").count() > 5


def test_the_closed_page_is_short_and_a_link_opens_a_card(page):
    assert page.evaluate("document.documentElement.scrollHeight / innerHeight") < 6
    assert page.evaluate("document.querySelectorAll('.card[open]').length") == 0
    page.locator("a.claim[href='#figure2']").first.click()
    page.wait_for_function("document.querySelector('#figure2 .plot').drawn")
    assert visible(page, "#figure2 .command") == ["make reproduce-figure2"]
    assert page.evaluate("document.getElementById('figure2').getBoundingClientRect().top") < 900


def test_the_page_names_the_state_of_every_artefact(page):
    states = {COMMITTED: "from the committed files", NOT_RUN: "runs missing", "figure2": "from records"}
    for name, state in states.items():
        drawn(page, name)
        assert page.locator(f"#{name} .state").first.inner_text().startswith(state)


def test_the_forest_plot_places_every_difference_on_its_axis(page):
    """The dot's place is that of the number beside it, between the ticks."""
    rows = page.evaluate(
        """[...document.querySelectorAll('.forest')].flatMap(group => {
            const left = e => { const box = e.getBoundingClientRect(); return (box.left + box.right) / 2; };
            const ticks = [...group.querySelectorAll('.tick')].map(e => [Number(e.textContent), left(e)]);
            return [...group.querySelectorAll('a.claim')].map(row => ({
                number: Number(/^[-+.\\d]+/.exec(row.querySelector('.numbers').textContent.trim())[0]),
                dot: left(row.querySelector('.dot')), zero: row.querySelector('.zero').getBoundingClientRect().left, ticks }));
        })"""
    )
    assert len(rows) > 20
    for row in rows:
        (low, left), (high, right) = row["ticks"][0], row["ticks"][-1]
        expected = left + (row["number"] - low) / (high - low) * (right - left)
        assert row["dot"] == pytest.approx(expected, abs=3)
        assert row["zero"] == pytest.approx(dict(row["ticks"])[0], abs=1.5)


def test_pointing_at_a_cell_shows_its_seeds_and_a_click_shows_its_runs(page):
    drawn(page, "figure4")
    place = point_at(page, "figure4-mini-0", 1, 0)
    hover = hover_text(page)
    ids = page.evaluate("document.querySelector('[data-figure=\"figure4-mini-0\"]').data[0].customdata[0][1]").split()
    assert len(ids) == 2 and all(name in hover for name in ids)
    assert all(word in hover for word in ("mean", "seed 1", "seed 2", "regularizer.weight_decay="))
    page.mouse.click(*place)
    page.wait_for_selector("#runs[open] #dynamics svg")
    assert visible(page, "#tip") == []
    text = page.locator("#runs").inner_text()
    assert all(name in text for name in ids) and "abc1234" in text
    page.wait_for_function(
        "document.querySelectorAll('#dynamics .scatterlayer .trace').length === 2"
    )  # R of two seeds, since AdamW has no bound
    page.keyboard.press("Escape")
    page.wait_for_selector("#runs", state="hidden")


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_a_hover_text_stays_in_the_window(browser, report_page, width):
    """Every cell of a heat map, of which those at the edges are the hard ones."""
    with opened(browser, report_page, width) as page:
        drawn(page, "figure2")
        for figure in visible_figures(page, "figure2"):
            columns, rows = page.evaluate(
                "figure => { const { x, y } = document.querySelector(`[data-figure='${figure}']`).data[0]; return [x.length, y.length]; }",
                figure,
            )
            for x, y in {(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)}:
                point_at(page, figure, x, y)
                box = page.locator("#tip").bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= width
                assert box["y"] >= 0 and box["y"] + box["height"] <= 900
                assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.getElementById('tip'))")


def test_a_cell_shows_its_mean_and_its_std_in_readable_sizes(page):
    drawn(page, "figure2")
    page.evaluate("Promise.all(plots.filter(plot => plot.closest('#figure2')).map(draw))")
    texts = page.evaluate(
        """[...document.querySelectorAll('#figure2 .plot')].map(plot => [
            plot.data[0].text.flat().filter(Boolean), plot.data[0].z.flat().filter(z => z !== null).length,
            [...plot.querySelectorAll('.annotation-text')].map(e => [e.textContent, e.getBoundingClientRect().height])])"""
    )
    for means, cells, written in texts:
        assert sorted(means) == sorted(text for text, _ in written if not text.startswith("±")) and len(means) >= cells
        assert all(height >= (9 if text.startswith("±") else 11) for text, height in written), written
        assert len({text for text, _ in written if text.startswith("±")}) > 1


def visible_figures(page, name):
    return page.evaluate("name => [...document.querySelectorAll(`#${name} .plot`)].map(e => e.dataset.figure)", name)


@pytest.mark.parametrize(
    "figure", ["evaluate_at-mini-0", "figure1-mini-0", "figure1-mini-1", "grokking-mini-0", "figure5-mini-0"]
)
def test_pointing_at_a_line_or_dot_names_it_and_a_click_shows_its_runs(page, figure):
    """Check pairs, the two figures of budgets, curves, and dynamics."""
    drawn(page, figure.partition("-")[0])
    page.evaluate("figure => draw(document.querySelector(`[data-figure='${figure}']`))", figure)
    x, y, ids = visible_point(page, figure)
    place = point_at(page, figure, x, y)
    hover = hover_text(page)
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
    hover = hover_text(page)
    rounds = json.loads((ROOT / "results/mini/table_i2/rounds.json").read_text())["shapes"]["toy"]["optimizer_step"][
        "rounds"
    ]
    assert (
        trace["y"][0] in hover
        and f"{trace['x'][0]:.3f} x fused AdamW" in hover
        and "NaN" not in hover
        and f" {rounds} rounds" in hover
    )


def test_a_click_on_a_curve_shows_r_kappa_and_lambda_of_its_run(page):
    drawn(page, "figure5")
    trace = page.evaluate(
        "(({x, y}) => ({x: x[2], y: y[2]}))(document.querySelector('[data-figure=\"figure5-mini-0\"]').data[0])"
    )
    page.mouse.click(*point_at(page, "figure5-mini-0", trace["x"], trace["y"]))
    page.wait_for_selector("#runs[open] #dynamics svg")
    page.wait_for_function("document.querySelectorAll('#dynamics .scatterlayer .trace').length >= 3")
    assert page.evaluate("document.getElementById('dynamics').data.map(t => t.yaxis)")[:3] == ["y", "y", "y2"]


def test_cards_tables_and_runs_can_be_opened_with_the_keyboard_alone(page):
    page.locator("#grokking > summary").press("Enter")
    page.locator("#grokking details[data-table] summary").first.press("Enter")
    page.wait_for_selector("#grokking details[data-table] table")
    page.locator("#grokking details.runs summary").press("Enter")
    button = page.locator("#grokking details.runs button").first
    button.press("Enter")
    page.wait_for_selector("#runs[open]")
    assert "on grokking: 1 run" in page.locator("#runs-title").inner_text()


def test_the_filter_takes_tasks_methods_scales_and_words_of_titles(page):
    every = visible(page, ".card")
    page.fill("#filter", "grokking")
    assert set(visible(page, ".card")) == {"grokking", "evaluate_at"}
    assert page.locator("#shown").inner_text() == f"2 of {len(every)}"
    page.fill("#filter", "cifar100 sgd_cpr")
    assert visible(page, ".card") == ["figure_e6"]
    page.fill("#filter", "")
    assert visible(page, ".card") == every


def test_the_committed_page_is_complete_at_every_width(browser):
    with opened(browser, ROOT / "results" / "index.html") as page:
        assert page.evaluate("document.documentElement.scrollHeight / innerHeight") < 6
        assert {*known_artefacts(), model_sizes.NAME, *TITLES} <= set(artefacts_of(page))
        all_drawn(page)
        for width in (390, 768, 1024, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")  # Plotly's figures follow
            assert (outside(page), cut(page), overlapping(page)) == ([], [], []), width
        blank = "[...document.querySelectorAll('.plot, .static img')].filter(e => e.getBoundingClientRect().height < 100).length"
        assert page.evaluate(blank) == 0
