"""The report page: findings, the forest plot and a card per artefact in one HTML file that works offline."""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from results.artefact import LEGEND
from results.code import states_of
from results.evidence.finding import Finding
from results.files import write
from results.interactive import Chart
from results.layouts.heatmap import CHOICE
from results.report.cards import Card, cards
from results.report.forest import claims_of_the_paper, forest, without_difference
from results.report.packing import packed
from results.report.run_data import POINTS, run_data
from results.report.sections import Section
from results.report.summary import counts, sentences

HERE = Path(__file__).parent


def write_report(sections: Sequence[Section], path: Path) -> Path:
    """Write the page results/index.html. The same sections give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, render(sections, path.parent))


def render(sections: Sequence[Section], results: Path) -> str:
    """Return the page's HTML.

    Args:
        sections: of any artefacts and scales, in any order.
        results: the folder results/, for what is said of the paper's scale and of the mechanism.
    """
    every = cards(sections)
    runs = [run for card in every for section in card.sections for run in section.runs]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"slug": slug, "groups": groups, "interval": interval}
    claims = claims_of_the_paper(every)
    return environment.get_template("page.html").render(
        cards=every,
        sentences=sentences(every, results),
        counts=counts(every, results),
        forest=forest(every),
        others=without_difference(every),
        unmeasured=sum(finding.difference is None and not finding.said for _, finding in claims),
        words=sorted({word for card in every for one in card.sections for word in (*one.tasks, *one.methods)}),
        run_count=len({run.run_id for run in runs}),
        commits=sorted({str(state.get("git_commit")) for run in runs for state in states_of(run.record)}),
        points=POINTS,
        legends=[re.sub(r"[*`]", "", text) for text in (LEGEND, f"Heat maps. {CHOICE}")],
        style=Markup((HERE / "style.css").read_text()),
        script=Markup((HERE / "page.js").read_text()),
        plotly=packed(get_plotlyjs()),
        figures=packed(_figures(every)),
        images=packed(_images(every)),
        tables=packed(_tables(every)),
        runs=packed(run_data(runs)),
    )


def slug(text: str) -> str:
    """Turn words into a class name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def groups(section: Section) -> list[tuple[str, list[tuple[int, Chart]]]]:
    """Return the section's numbered panels, grouped."""
    return [
        (name, list(own)) for name, own in itertools.groupby(enumerate(section.panels), key=lambda one: one[1].group)
    ]


def interval(finding: Finding) -> str:
    """Return a difference with its interval, such as `+0.31 [-0.20, 0.82]`."""
    text = f"{finding.difference:+.2f}"
    if finding.low is None or finding.high is None or not math.isfinite(finding.high):
        return text
    return f"{text} [{finding.low:+.2f}, {finding.high:+.2f}]"


def _figures(cards: Sequence[Card]) -> dict[str, Any]:
    """Return Plotly's data and layout by <artefact>-<scale>-<number>."""
    made = {}
    for section in (section for card in cards for section in card.sections):
        for number, panel in enumerate(section.panels):
            figure = panel.figure.to_plotly_json()
            figure["layout"].pop("template", None)  # the page sets its own colours, light or dark
            made[f"{section.name}-{section.scale}-{number}"] = figure
    return made


def _images(cards: Sequence[Card]) -> dict[str, str]:
    """Return the committed SVG figures by <artefact>-<scale>."""
    return {f"{one.name}-{one.scale}": one.image for card in cards for one in card.sections if one.image}


def _tables(cards: Sequence[Card]) -> dict[str, str]:
    """Return the HTML of the tables by <artefact>-<scale>-<number>."""
    return {
        f"{section.name}-{section.scale}-{number}": str(html_table(table))
        for card in cards
        for section in card.sections
        for number, table in enumerate(section.tables.values())
    }


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
