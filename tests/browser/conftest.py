"""Tests of the report page in a browser: `make test-browser`.

Every test that uses `browser` is marked `browser`, and `make test` skips it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT
from driving import COMMITTED, NOT_RUN, opened
from made_records import expand_once, mini, mini_artefacts, write_artefact_runs

from results import model_sizes, write_artefact
from results.step_times import TITLES
from scripts import report
from scripts.bench.made_records import metrics_of, write_run
from scripts.sweep.artefacts import load_artefact

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# These flags stop Chromium's own network traffic.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(tryfirst=True)  # before -m selects tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with records of all artefacts but two, and the committed tables without runs."""
    results_dir = tmp_path_factory.mktemp("results")
    runs_dir, out = results_dir / "runs", results_dir / "mini"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(results_dir)
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr("scripts.sweep.plan.before_finalists", expand_once)
        patch.setattr("scripts.sweep.committed_runs.FOLDER", results_dir)
        for name in mini_artefacts():
            if name not in (COMMITTED, NOT_RUN):
                write_artefact_runs(runs_dir, name)
        elsewhere = [write_run(runs_dir / "elsewhere", cfg, metrics_of(COMMITTED)) for cfg in mini(COMMITTED).values()]
        runs = [run for folder in elsewhere if (run := report.run_on_record(folder)) is not None]
        write_artefact(
            load_artefact(COMMITTED), "mini", runs, out / COMMITTED, expected=len(runs), seeds=3, command="a command"
        )
        for name in (model_sizes.NAME, *TITLES):
            shutil.copytree(ROOT / "results" / "mini" / name, out / name)
        report.main([f"results_dir={results_dir}"])
    return results_dir / "index.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        missing = "chromium is not installed (on Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true" and in_apt("chromium"):
            pytest.fail(missing)
        pytest.skip(missing)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # with its own profile folder
        yield browser
        browser.close()


def in_apt(package: str) -> bool:
    """Tell whether apt can install it."""
    return (
        shutil.which("apt-cache") is not None
        and subprocess.run(["apt-cache", "show", package], capture_output=True).returncode == 0
    )


@pytest.fixture
def page(browser: Any, report_page: Path) -> Iterator[Any]:
    with opened(browser, report_page) as page:
        yield page
