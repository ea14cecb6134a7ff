"""The report page as a reader uses it: figures, hover, click, filters, light and dark, and every width of screen."""

import pytest

from scripts.plan import known_artefacts


def drawn(page, name):
    """Scrolls to an artefact and waits for its first figure."""
    page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
    page.wait_for_function("name => document.querySelector(`#${name} .plot`).drawn", arg=name)


def centre_of(page, figure, x, y):
    """Where a point of a figure's axes is on the screen."""
    return page.evaluate(
        """([figure, x, y]) => {
            const plot = document.querySelector(`[data-figure="${figure}"]`), box = plot.getBoundingClientRect();
            const { xaxis, yaxis } = plot._fullLayout;
            return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        [figure, x, y],
    )


def point_at(page, figure, x, y):
    """Moves the mouse to a point of a figure's axes, and waits for what is said of it; where that is on the screen."""
    place = centre_of(page, figure, x, y)
    page.mouse.move(place[0] - 2, place[1])
    page.mouse.move(*place)
    page.wait_for_selector(f'[data-figure="{figure}"] .hoverlayer .hovertext')
    return place


def visible(page, selector):
    return page.evaluate(
        "s => [...document.querySelectorAll(s)].filter(e => e.offsetParent).map(e => e.id || e.textContent.trim())", selector
    )


def test_every_artefact_has_a_figure_or_says_why_not_and_a_verdict(page):
    for name in known_artefacts():
        section = page.locator(f"#{name}")
        assert section.locator(".verdicts").count() == 1, name
        assert section.locator(".plot, .static img").count() or "No figure" in section.inner_text(), name
        assert section.locator(".command").inner_text().startswith("make reproduce-"), name
    for name in ("figure1", "figure2", "figure4", "figure5", "grokking", "evaluate_at", "figure_e1"):
        drawn(page, name)
        plot = page.locator(f"#{name} .plot").first
        assert plot.locator("svg").count() and plot.bounding_box()["height"] > 100, name
    assert page.locator("#figure4 .heatmaplayer image, #figure4 .heatmaplayer path").count()
    assert page.locator("#grokking .scatterlayer .trace").count() > 5


def test_pointing_at_a_cell_shows_its_seeds_and_a_click_the_runs_with_their_dynamics(page):
    drawn(page, "figure4")
    place = point_at(page, "figure4-0", 1, 0)
    hover = page.locator("#figure4 .hoverlayer").first.inner_html()
    ids = page.evaluate("document.querySelector('[data-figure=\"figure4-0\"]').data[0].customdata[0][1]").split()
    assert len(ids) == 3 and all(name in hover for name in ids)
    assert all(word in hover for word in ("mean", "seed 1", "seed 2", "seed 3", "regularizer.weight_decay=0.01"))
    page.mouse.click(*place)
    page.wait_for_selector("#runs[open] #dynamics svg")
    text = page.locator("#runs").inner_text()
    assert all(name in text for name in ids) and "abc1234" in text
    page.wait_for_function(
        "document.querySelectorAll('#dynamics .scatterlayer .trace').length === 3"
    )  # R of three seeds: AdamW has no bound
    page.keyboard.press("Escape")
    page.wait_for_selector("#runs", state="hidden")


def test_a_click_on_a_curve_shows_r_kappa_and_lambda_of_its_run(page):
    drawn(page, "figure5")
    trace = page.evaluate("(({x, y, name}) => ({x: x[2], y: y[2], name}))(document.querySelector('[data-figure=\"figure5-0\"]').data[0])")
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
    assert visible(page, "#claims tbody tr") and all("AdamCPR WS" in row or "WS" in row for row in visible(page, "#claims tbody tr"))
    page.select_option("#task", "")
    page.select_option("#method", "rescaling")
    drawn(page, "grokking")
    shown = page.evaluate("document.querySelector('#grokking .plot').data.filter(t => t.visible).map(t => t.meta)")
    assert shown and set(shown) == {"rescaling"}
    page.select_option("#method", "")
    assert visible(page, "section.artefact") == every


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(page, width, colours):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=colours)
    for name in ("figure1", "figure2", "figure4", "figure5", "evaluate_at"):
        drawn(page, name)
    page.evaluate("document.querySelectorAll('section details').forEach(details => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll('main *')]
        .filter(e => !e.closest('.scroll, .plot') && e.getBoundingClientRect().right > innerWidth + 1).length"""
    assert page.evaluate(wide) == 0
    assert page.evaluate("document.documentElement.dataset.theme") == colours


def test_the_button_changes_light_to_dark(page):
    drawn(page, "figure2")
    ground = "getComputedStyle(document.body).backgroundColor"
    before, best = page.evaluate(ground), page.evaluate("document.querySelector('#figure2 .plot').data[0].colorscale[0][1]")
    page.click("#theme")
    assert page.evaluate(ground) != before
    assert page.evaluate("document.querySelector('#figure2 .plot').data[0].colorscale[0][1]") != best


def test_in_print_everything_is_drawn_and_the_controls_are_gone(page):
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate("[...document.querySelectorAll('.plot')].every(plot => plot.drawn)")
    assert visible(page, "nav, .filters, #theme") == []
