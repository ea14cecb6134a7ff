"""Read the paper's numbers (results/published/*.yaml)."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "published"


@cache  # an artefact has many panels, and parsing YAML is slow
def published_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of published numbers. They are cached: don't change them."""
    rows: list[dict[str, Any]] = yaml.safe_load(path.read_text())["rows"]
    return rows
