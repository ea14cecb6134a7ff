"""The report page: sections, Plotly's JavaScript and the runs' data in one HTML file that works offline."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from results.artefact import LEGEND
from results.code import states_of
from results.evidence.finding import MISSING, NOT_MEASURED, OUTCOMES, Finding
from results.evidence.paper_scale import paper_scale_sentence
from results.files import write
from results.interactive import Chart
from results.layouts.heatmap import CHOICE
from results.order import place
from results.report.run_data import pack, points_each
from results.report.sections import Section

HERE = Path(__file__).parent


def write_report(sections: Sequence[Section], scale: str, path: Path) -> Path:
    """Write the page results/<scale>/index.html. The same sections give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, render(sections, scale, paper_scale_sentence(path.parents[1])))


def render(sections: Sequence[Section], scale: str, paper_scale: str = "") -> str:
    """Return the page's HTML. `paper_scale` says which training results exist at paper scale."""
    sections = sorted(sections, key=lambda section: place(section.name))
    runs = [run for section in sections for run in section.runs]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"table": html_table, "slug": slug, "groups": groups}
    return environment.get_template("page.html").render(
        scale=scale,
        paper_scale=paper_scale,
        sections=sections,
        claims=_claims(sections),
        tally=_tally(sections),
        run_count=len({run.run_id for run in runs}),
        commits=sorted({str(state.get("git_commit")) for run in runs for state in states_of(run.record)}),
        points=points_each(runs),
        legends=[re.sub(r"[*`]", "", text) for text in (LEGEND, f"Heat maps. {CHOICE}")],
        tasks=sorted({task for section in sections for task in section.tasks}),
        methods=sorted({method for section in sections for method in section.methods}),
        style=Markup((HERE / "style.css").read_text()),
        script=Markup((HERE / "page.js").read_text()),
        plotly=Markup(get_plotlyjs()),
        figures=in_script(_figures(sections)),
        runs=Markup(pack(runs)),
    )


def slug(text: str) -> str:
    """Turn words into a class name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def groups(section: Section) -> list[tuple[str, list[tuple[int, Chart]]]]:
    """Return the section's numbered panels, grouped."""
    return [
        (name, list(own)) for name, own in itertools.groupby(enumerate(section.panels), key=lambda one: one[1].group)
    ]


def _claims(sections: Sequence[Section]) -> list[tuple[Section, Finding]]:
    """Return every claim with its section, measured ones first."""
    every = [(section, finding) for section in sections for finding in section.findings]
    return sorted(every, key=lambda one: one[1].outcome in (NOT_MEASURED, MISSING))


def _tally(sections: Sequence[Section]) -> list[tuple[str, int]]:
    counts = Counter(finding.outcome for section in sections for finding in section.findings)
    return [(outcome, counts[outcome]) for outcome in OUTCOMES if counts[outcome]]


def _figures(sections: Sequence[Section]) -> dict[str, Any]:
    """Return Plotly's data and layout by <artefact>-<number>."""
    made = {}
    for section in sections:
        for number, panel in enumerate(section.panels):
            figure = panel.figure.to_plotly_json()
            figure["layout"].pop("template", None)  # the page sets its own colours, light or dark
            made[f"{section.name}-{number}"] = figure
    return made


def in_script(content: Mapping[str, Any]) -> Markup:
    """Return JSON that can't close the script element around it."""
    return Markup(json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def html_table(table: pd.DataFrame) -> Markup:
    """Return a table with escaped text, numbers with five digits, and empty cells for missing values."""

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.5g}"
        return "" if value is None else str(value)

    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(column) for column in table.columns)
    rows = [
        Markup("<tr>") + Markup("").join(Markup("<td>{}</td>").format(shown(value)) for value in row) + Markup("</tr>")
        for row in table.itertuples(index=False)
    ]
    return Markup("<table class='data'><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        head, Markup("").join(rows)
    )
