"""The documentation works from disk, without a server: its search, and the report one click from its front page."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from commands import ROOT
from driving import opened

pytest.importorskip("material")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True)
    return folder


def test_the_search_finds_a_page_from_disk(browser, site):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("warm_start")
    result = page.locator(".md-search-result__link").first
    result.wait_for()
    result.click()
    page.wait_for_url("**/*.html*")
    assert "warm_start" in page.locator("main").inner_text()
    page.close()


def test_the_report_is_one_click_from_the_front_page(browser, site):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.locator("main a", has_text="The report").first.click()
    page.wait_for_selector(".card")
    assert page.url == (site / "results" / "report.html").as_uri()
    page.close()
    with opened(browser, site / "results" / "report.html") as report:
        report.evaluate("document.querySelectorAll('main details').forEach(details => { details.open = true; })")
        links = report.evaluate(
            "[...document.querySelectorAll('main a')].map(a => a.href).filter(url => url.startsWith('file:'))"
        )
    missing = [url for url in links if not url.partition("#")[0].endswith("report.html") and not exists(url)]
    assert links and missing == []


def exists(url):
    return Path(unquote(urlparse(url).path)).is_file()
