"""Drive the report page in tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Artefacts that share no run with others. On the tests' page, the first has only committed files, and
# the second only published numbers.
COMMITTED, NOT_RUN = "figure_e5", "amos22"


@contextmanager
def opened(browser: Any, path: Path, width: int = 1440, colours: str = "light") -> Iterator[Any]:
    """Open a page from the disk. Fail on any console error and on any request beyond the file."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours, reduced_motion="reduce")
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def drawn(page: Any, name: str) -> None:
    """Open an artefact's card, scroll to it and wait for its first figure."""
    page.evaluate("name => { location.hash = ''; location.hash = name; }", name)
    page.wait_for_function("name => document.querySelector(`#${name} .plot`)?.drawn", arg=name)


def all_drawn(page: Any) -> None:
    """Unfold everything and draw every figure."""
    page.evaluate("document.querySelectorAll('main details').forEach(details => { details.open = true; })")
    page.evaluate("Promise.all([images(), ...plots.map(draw)])")
    page.wait_for_function("[...document.querySelectorAll('.static img')].every(image => image.naturalHeight)")
    page.wait_for_function(
        "[...document.querySelectorAll('.scroll')].filter(e => !e.closest('dialog')).every(e => e.childElementCount)"
    )


def artefacts_of(page: Any) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.card')].map(card => card.id)")  # type: ignore[no-any-return]


def visible_point(page: Any, figure: str) -> tuple[Any, Any, str]:
    """Return x, y and run ids of the visible point that is farthest from other runs' points."""
    return page.evaluate(  # type: ignore[no-any-return]
        """figure => {
            const plot = document.querySelector(`[data-figure="${figure}"]`), { xaxis, yaxis } = plot._fullLayout;
            const within = (axis, value) => axis.d2p(value) >= 0 && axis.d2p(value) <= axis._length;
            const of = t => [...t.x.keys()].filter(i => t.y[i] !== null).map(i => [t.x[i], t.y[i], t.customdata?.[i]]);
            const points = plot.data.flatMap(of);
            const seen = points.filter(([x, y, ids]) => ids && within(xaxis, x) && within(yaxis, y));
            const apart = ([u, v], [x, y]) => Math.hypot(xaxis.d2p(u) - xaxis.d2p(x), yaxis.d2p(v) - yaxis.d2p(y));
            const room = one => Math.min(...points.filter(other => other[2] !== one[2]).map(other => apart(other, one)));
            return seen.reduce((best, one) => room(one) > room(best) ? one : best);
        }""",
        figure,
    )


def point_at(page: Any, figure: str, x: Any, y: Any) -> list[float]:
    """Move the mouse to a point of a figure and wait for its hover text. Return the place on the screen."""
    page.evaluate(  # the scroll event, which hides a hover text, comes before the second frame
        """figure => {
            document.querySelector(`[data-figure="${figure}"]`).scrollIntoView({ block: "center" });
            return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        }""",
        figure,
    )
    page.wait_for_function("figure => document.querySelector(`[data-figure='${figure}']`).drawn", arg=figure)
    place: list[float] = page.evaluate(
        """([figure, x, y]) => {
            const plot = document.querySelector(`[data-figure="${figure}"]`), box = plot.getBoundingClientRect();
            const { xaxis, yaxis } = plot._fullLayout;
            const across = Math.max(1, Math.min(xaxis.d2p(x), xaxis._length - 1));  // a pixel at an edge can be outside
            return [box.left + xaxis._offset + across, box.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        [figure, x, y],
    )
    page.mouse.move(place[0] - 2, place[1])
    page.mouse.move(*place)
    page.wait_for_selector("#tip:not([hidden])")
    return place


def hover_text(page: Any) -> str:
    return page.locator("#tip").inner_text()  # type: ignore[no-any-return]


def visible(page: Any, selector: str) -> list[str]:
    """Return the ids of the visible elements, or their texts if they have no id."""
    return page.evaluate(  # type: ignore[no-any-return]
        "s => [...document.querySelectorAll(s)].filter(e => e.offsetParent).map(e => e.id || e.textContent.trim())",
        selector,
    )


def outside(page: Any) -> list[str]:
    """Return the elements that reach beyond the screen's edges and do not scroll by themselves."""
    return page.evaluate(  # type: ignore[no-any-return]
        """[document.documentElement, ...document.querySelectorAll('main *, header *, dialog[open], dialog[open] *, #tip')]
            .filter(e => e.checkVisibility() && !e.parentElement?.closest('.scroll, .plot, #dynamics'))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1
                || e === document.documentElement && e.scrollWidth > innerWidth)
            .map(e => `${e.tagName} ${e.id} ${e.className} in ${e.closest('section, dialog')?.id}`)"""
    )


def cut(page: Any) -> list[str]:
    """Return the elements whose text is wider than they are and hidden there."""
    return page.evaluate(  # type: ignore[no-any-return]
        """[...document.querySelectorAll('main *')]
            .filter(e => e.checkVisibility() && !e.closest('.scroll, .plot'))
            .filter(e => ['hidden', 'clip'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1)
            .map(e => `${e.tagName} ${e.className}: ${e.textContent.slice(0, 60)}`)"""
    )


def overlapping(page: Any) -> list[str]:
    """Return pairs of texts beside each other that overlap: in the forest plot's rows, the axis' ticks, cards' heads and counts."""
    return page.evaluate(  # type: ignore[no-any-return]
        """['.claim', '.axis .track', '.card > summary', '.chips', '.counts', '.key', 'header'].flatMap(selector =>
            [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()).flatMap(parent => {
                const texts = [...parent.children].filter(e => e.textContent.trim());
                const boxes = texts.map(e => [e.textContent.trim().slice(0, 40), e.getBoundingClientRect()]);
                const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
                return boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
                    .filter(([, b]) => meet(a, b))
                    .map(([other]) => `${selector}: ${one} | ${other}`));
            }))"""
    )
