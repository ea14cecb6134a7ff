"""All committed files of an artefact, and the page, have the same results."""

import csv
import html
from functools import cache

import pytest

from results.evidence.finding import from_csv
from scripts.cli.parser import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/*/table.csv"))


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@cache
def page_of(scale: str) -> str:
    """Return the text of the scale's page, or an empty text if it has none."""
    path = ROOT / "results" / scale / "index.html"
    return html.unescape(path.read_text()) if path.exists() else ""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_claims_and_cells_are_the_same_in_every_file(folder):
    text, tex, page = (folder / "table.md").read_text(), (folder / "table.tex").read_text(), page_of(folder.parent.name)
    assert tex.isascii()
    for finding in from_csv((folder / "claims.csv").read_text()):
        for said in (finding.text, finding.said):
            assert said.replace("|", r"\|") in text
            assert not page or said in page
    for cell in read(folder / "table.csv"):
        if cell.get("mean") and cell.get("std"):
            ours = f"{float(cell['mean']):.2f} ± {float(cell['std']):.2f} ({cell['seeds']} seeds"
            assert ours in text
            assert all(number in tex for number in ours.split(" (")[0].split(" ± "))
            assert not page or ours in page
