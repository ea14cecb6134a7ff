"""What a stage of the check found, and the report of all of them as JSON and Markdown."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from results.table import pipe_table
from tasks.engine.files import write_bytes_atomically

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


@dataclass
class Stage:
    """What one stage found.

    outcome: passed, failed or not run.
    said: one sentence.
    rows: numbers, a dictionary for each row of the stage's table.
    text: what a command printed.
    """

    name: str
    outcome: str
    said: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0


def write(folder: Path, about: dict[str, Any], stages: list[Stage]) -> None:
    """Write report.json and report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "stages": [asdict(stage) for stage in stages]}
    write_bytes_atomically(folder / "report.json", (json.dumps(content, indent=1) + "\n").encode())
    write_bytes_atomically(folder / "report.md", (markdown(about, stages) + "\n").encode())


def markdown(about: dict[str, Any], stages: list[Stage]) -> str:
    """Return the report for people: a table of stages, then a table of each one's numbers."""
    lines = ["# Check of this machine", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    overview = [
        {"stage": one.name, "outcome": one.outcome, "seconds": f"{one.seconds:.0f}", "what": one.said} for one in stages
    ]
    lines.append(table(overview))
    for stage in stages:
        if stage.rows or stage.text:
            lines += ["", f"## {stage.name}", ""]
        if stage.rows:
            lines.append(table(stage.rows))
        if stage.text:
            lines += ["```text", stage.text, "```"]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table with a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pipe_table(columns, [[shown(row.get(column)) for column in columns] for row in rows])


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
