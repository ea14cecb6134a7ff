"""All committed files of an artefact, and the page, have the same results."""

import csv
import html
import re
import shutil
from functools import cache

import pytest

from results.evidence.finding import from_csv
from results.report.packing import unpacked
from scripts import rebuild, report
from scripts.cli.parser import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/*/table.csv"))


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@cache
def page() -> tuple[str, str]:
    """Return the page's text, and that of its tables."""
    text = (ROOT / "results" / "index.html").read_text()
    tables = unpacked(re.search(r'id="tables">(.*?)</script>', text, re.DOTALL)[1])
    return html.unescape(text), html.unescape("".join(tables.values()))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_claims_and_cells_are_the_same_in_every_file(folder):
    text, tex = (folder / "table.md").read_text(), (folder / "table.tex").read_text()
    said_on_page, tables = page()
    assert tex.isascii()
    for finding in from_csv((folder / "claims.csv").read_text()):
        for said in (finding.text, finding.said):
            assert said.replace("|", r"\|") in text
            assert said in said_on_page
    for cell in read(folder / "table.csv"):
        if cell.get("mean") and cell.get("std"):
            ours = f"{float(cell['mean']):.2f} ± {float(cell['std']):.2f} ({cell['seeds']} seeds"
            assert ours in text and ours in tables
            assert all(number in tex for number in ours.split(" (")[0].split(" ± "))


def test_the_page_is_small_and_has_the_committed_figures():
    path = ROOT / "results" / "index.html"
    text = path.read_text()
    assert path.stat().st_size < report.MOST
    images = unpacked(re.search(r'id="images">(.*?)</script>', text, re.DOTALL)[1])
    assert sorted(images) == sorted(re.findall(r'data-image="([^"]+)"', text))
    for name, image in images.items():
        artefact, _, scale = name.rpartition("-")
        assert image == (ROOT / "results" / scale / artefact / "figure.svg").read_text()


def test_the_files_and_the_page_follow_from_the_committed_records(tmp_path):
    """`make rebuild` changes nothing."""
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    before = contents(tmp_path / "results")
    for scale in sorted({path.parents[1].name for path in ROOT.glob("results/*/records/*.gz")}):
        rebuild.main([f"scale={scale}", f"results_dir={tmp_path / 'results'}"])
    now = contents(tmp_path / "results")
    assert now.keys() == before.keys()
    assert [name for name in now if now[name] != before[name]] == []


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
