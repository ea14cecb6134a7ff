"""The report page fits every screen width, in light and dark, and in print.

SCREENSHOTS=folder keeps the pictures."""

import os
from pathlib import Path

import pytest
from driving import all_drawn, cut, drawn, opened, outside, overlapping, visible
from PIL import Image, ImageStat

WIDTHS, COLOURS = (390, 768, 1024, 1440), ("light", "dark")
# One artefact for each layout: heat map, pairs, budget, curves, dynamics and step times.
CARDS = ("figure2", "evaluate_at", "figure1", "grokking", "figure5", "table_i2")


def open_runs(page, name):
    page.evaluate(
        "name => openRuns(document.querySelector(`#${name} details.runs`).dataset.runs.split(' ').slice(0, 3))", name
    )
    page.wait_for_selector("#runs[open] #dynamics svg")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("colours", COLOURS)
def test_nothing_is_cut_overlaps_or_is_wider_than_the_screen(browser, report_page, width, colours):
    with opened(browser, report_page, width, colours) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == colours
        assert (outside(page), cut(page), overlapping(page)) == ([], [], [])
        all_drawn(page)
        assert (outside(page), cut(page), overlapping(page)) == ([], [], [])
        for name in ("figure2", "figure5"):
            open_runs(page, name)
            page.evaluate("document.querySelector('#runs details').open = true")
            assert outside(page) == []
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
        page.screenshot(path=folder / f"page-{width}-{colours}.png", full_page=True)
        for name in CARDS:
            drawn(page, name)
            page.evaluate("name => Promise.all(plots.filter(plot => plot.closest(`#${name}`)).map(draw))", name)
            page.locator(f"#{name}").screenshot(path=folder / f"{name}-{width}-{colours}.png")
        open_runs(page, "figure5")
        page.screenshot(path=folder / f"runs-{width}-{colours}.png")
    for name in ("page", *CARDS, "runs"):
        picture = Image.open(folder / f"{name}-{width}-{colours}.png").convert("L")
        assert picture.width <= width and picture.height > 100, name
        assert picture.getextrema()[0] < 60 and picture.getextrema()[1] > 180, name  # text on a background
        is_light = ImageStat.Stat(picture).median[0] > 128
        assert is_light == (colours == "light"), name


def test_a_wide_table_shows_that_it_goes_on(browser, report_page):
    """The shadow at its right edge is there until the table has been scrolled to its end."""
    with opened(browser, report_page, 390) as page:
        drawn(page, "figure2")
        page.locator("#figure2 details[data-table] summary").last.click()
        table = page.locator("#figure2 details[data-table] .scroll").last
        table.locator("table").wait_for()
        assert table.evaluate("e => e.scrollWidth > e.clientWidth")

        def edge() -> float:
            picture = Image.open(shot(table)).convert("L")
            strip = picture.crop((picture.width - 4, 4, picture.width - 1, picture.height - 4))
            return ImageStat.Stat(strip).median[0]

        before = edge()
        table.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
        assert edge() > before + 10


def shot(locator):
    import io

    return io.BytesIO(locator.screenshot())


def test_the_button_changes_light_to_dark(page):
    drawn(page, "figure2")
    ground = "getComputedStyle(document.body).backgroundColor"
    best = "document.querySelector('#figure2 .plot').data[0].colorscale[0][1]"
    before = page.evaluate(ground), page.evaluate(best)
    page.click("#theme")
    page.wait_for_function(f"{best} !== '{before[1]}'")
    assert page.evaluate(ground) != before[0]


def test_the_printed_page_draws_every_figure_and_has_no_controls(page):
    drawn(page, "figure2")  # the drawing library has been unpacked
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].filter(e => e.checkVisibility()).every(plot => plot.drawn)"
    )
    assert visible(page, ".filter, #theme") == []
