"""Tests of the report page in a browser: `make test-browser`. All that use `page` are marked `browser`, which `make test` leaves out."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_records import expand_once, mini, write_artefact_runs, write_run

from results import write_artefact
from scripts import report
from scripts.plan import load_artefact

CHROMIUM = shutil.which("chromium")
# Nothing that Chromium does for its own sake may reach for a network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with an artefact of every layout from records, one from committed files, and the others without runs."""
    results_dir = tmp_path_factory.mktemp("results")
    runs_dir = results_dir / "runs"
    for name in ("figure1", "figure4", "figure5", "grokking", "evaluate_at"):
        write_artefact_runs(runs_dir, name)
    committed = [report.run_on_record(write_run(runs_dir / "elsewhere", cfg, ["top1_accuracy"])) for cfg in mini("figure2").values()]
    runs = [run for run in committed if run is not None]
    out = results_dir / "mini" / "figure2"
    write_artefact(load_artefact("figure2"), "mini", runs, out, expected=len(runs), seeds=4, command="a command")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(results_dir)
        patch.setattr("scripts.report.expand", expand_once)
        report.main(["scale=mini", f"results_dir={results_dir}"])
    return results_dir / "mini" / "index.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (on Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # with a profile folder of its own
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, report_page: Path) -> Iterator[Any]:
    """The page, opened from the disk. No test may end with an error on its console or a request to anything but the file."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report_page.as_uri())
    yield page
    page.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report_page.as_uri()]
