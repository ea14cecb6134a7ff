"""The report page fits every screen width, in light and dark, and in print.

SCREENSHOTS=folder keeps the pictures."""

import os
from pathlib import Path

import pytest
from driving import all_drawn, drawn, opened, too_wide, visible
from PIL import Image, ImageStat

WIDTHS, COLOURS = (390, 1440), ("light", "dark")
# One artefact for each layout: heat map, pairs, budget, curves, dynamics and step times. The page's
# head and foot and the runs of a cell are pictured too.
SHOWN = ("claims", "figure2", "evaluate_at", "figure1", "grokking", "figure5", "table_i2", "environment")


def open_runs(page, name):
    page.evaluate(
        "name => openRuns(document.querySelector(`#${name} details.runs`).dataset.runs.split(' ').slice(0, 3))", name
    )
    page.wait_for_selector("#runs[open] #dynamics svg")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("colours", COLOURS)
def test_nothing_is_wider_than_the_screen(browser, report_page, width, colours):
    with opened(browser, report_page, width, colours) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == colours
        all_drawn(page)
        assert too_wide(page) == []
        for name in ("figure2", "figure5"):
            open_runs(page, name)
            page.evaluate("document.querySelector('#runs details').open = true")
            assert too_wide(page) == []
            assert page.evaluate(
                "document.getElementById('runs').scrollWidth <= document.getElementById('runs').clientWidth"
            )
            page.keyboard.press("Escape")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("colours", COLOURS)
def test_pictures_of_every_layout_are_kept(browser, report_page, width, colours, tmp_path):
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    with opened(browser, report_page, width, colours) as page:
        page.screenshot(path=folder / f"top-{width}-{colours}.png")
        for name in SHOWN:
            page.evaluate("name => plots.filter(plot => plot.closest('section').id === name).forEach(draw)", name)
            page.locator(f"#{name}").screenshot(path=folder / f"{name}-{width}-{colours}.png")
        open_runs(page, "figure5")
        page.screenshot(path=folder / f"runs-{width}-{colours}.png")
    for name in ("top", *SHOWN, "runs"):
        picture = Image.open(folder / f"{name}-{width}-{colours}.png").convert("L")
        assert picture.width <= width and picture.height > 100, name
        assert picture.getextrema()[0] < 60 and picture.getextrema()[1] > 180, name  # text on a background
        is_light = ImageStat.Stat(picture).median[0] > 128
        assert is_light == (colours == "light"), name


def test_the_button_changes_light_to_dark(page):
    drawn(page, "figure2")
    ground = "getComputedStyle(document.body).backgroundColor"
    before, best = (
        page.evaluate(ground),
        page.evaluate("document.querySelector('#figure2 .plot').data[0].colorscale[0][1]"),
    )
    page.click("#theme")
    assert page.evaluate(ground) != before
    assert page.evaluate("document.querySelector('#figure2 .plot').data[0].colorscale[0][1]") != best


def test_the_printed_page_draws_everything_and_has_no_controls(page):
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate("[...document.querySelectorAll('.plot')].every(plot => plot.drawn)")
    assert visible(page, "nav, .filters, #theme") == []
