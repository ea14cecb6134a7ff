"""Write the generated parts of README.md and REPRODUCING.md:  python scripts/readme.py
These are the first figure, the findings, the table of artefacts, and the table of claims. Each stands
between the comments `<!-- make readme: NAME -->` and `<!-- end -->`. They are made from

- the `readme:` entries of configs/artefact/*.yaml and configs/bench.yaml,
- the number of runs in the grids, and what they cost at paper scale (scripts/sweep/cards.py),
- the findings and facts in results/<scale>/<name>/.
"""

import itertools
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from results.artefact import read_facts
from results.artefact_file import SchemaError, read_artefact
from results.evidence.finding import Finding, count_outcomes, read_findings
from results.evidence.paper_scale import paper_scale_sentence
from results.order import place
from results.report.summary import direction_sentence, mechanism_sentence
from results.schema import Artefact
from results.table import pipe_table
from scripts.cli.common import one_line_errors
from scripts.cli.parser import ROOT, Command
from scripts.sweep.cards import run_seconds
from scripts.sweep.plan import configuration
from tasks.engine.errors import UserError

COMMAND = Command("scripts/readme.py", __doc__)
README, REPRODUCING = ROOT / "README.md", ROOT / "REPRODUCING.md"
FIGURE = ("mini", "grokking")
SCALES = ("mini", "small", "paper")
COLUMNS = ("paper item", "command", "data at mini scale", "mini cost", "small cost", "paper cost (estimate)", "state")


def rewritten(text: str, root: Path = ROOT) -> str:
    """Return README.md's text with its generated parts up to date.
    Raises UserError if the comments of a part are missing, or an artefact's entry.
    """
    artefacts = artefacts_in(root)
    parts = {"figure": figure(root), "finding": finding(artefacts, root), "artefacts": table(artefacts, root)}
    return filled("README.md", text, parts)


def reproducing(text: str, root: Path = ROOT) -> str:
    """Return REPRODUCING.md's text with its generated parts up to date. Raises UserError as `rewritten` does."""
    return filled("REPRODUCING.md", text, {"claims": claims(artefacts_in(root), root)})


def filled(file: str, text: str, parts: dict[str, str]) -> str:
    """Return the text with each part between its comments. Raises UserError if the comments of one are missing."""
    for name, made in parts.items():
        begin, end = f"<!-- make readme: {name} -->\n", "<!-- end -->"
        before, mark, rest = text.partition(begin)
        _, closing, after = rest.partition(end)
        if not mark or not closing:
            raise UserError(
                f"{file} needs a part that begins with <!-- make readme: {name} --> and ends with <!-- end -->"
            )
        text = f"{before}{begin}{made}\n{end}{after}"
    return text


def figure(root: Path) -> str:
    """Return the figure with a one-line caption: what it shows, from which runs, and what is claimed."""
    scale, name = FIGURE
    folder = root / "results" / scale / name
    title, facts = title_of(folder), read_facts(folder / "table.md")
    of = f"{scale} scale, seed{'s' * (',' in facts['seeds'])} {facts['seeds']}, {facts['runs']} runs, {facts['hardware']}"
    said = "".join(f' "{one.text}": {one.said}.' for one in read_findings(folder / "claims.csv"))
    path = folder.relative_to(root)
    return f"![{title}]({path}/figure.png)\n\n*{title}. Ours, {of}. [Numbers]({path}/table.md).{said}*"


def artefacts_in(root: Path) -> list[Artefact]:
    """Return every artefact. Raises UserError for a faulty file."""
    try:
        return [read_artefact(path) for path in sorted((root / "configs" / "artefact").glob("*.yaml"))]
    except SchemaError as error:
        raise UserError(str(error)) from None


def finding(artefacts: Sequence[Artefact], root: Path) -> str:
    """Return the report's three sentences, from the committed files."""
    results = root / "results"
    small = [
        one
        for a in artefacts
        if a.claims_of == "the paper"
        for one in read_findings(results / "small" / a.name / "claims.csv")
    ]
    said = paper_scale_sentence(results), direction_sentence(small), mechanism_sentence(results)
    return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(said, 1))


def table(artefacts: Sequence[Artefact], root: Path) -> str:
    """Return a row for each artefact, in the paper's order, then those that are not in the paper."""
    rows = {}
    for artefact in artefacts:
        name, readme = artefact.name, artefact.readme
        if readme is None:
            raise UserError(
                f"configs/artefact/{name}.yaml needs an entry readme: with item and a cost for each scale; figure2.yaml has one"
            )
        costs = [cost_of(artefact, scale) for scale in SCALES]
        rows[place(readme.place or name)] = (
            readme.item,
            f"`make reproduce-{name}`",
            data(name, root),
            *costs,
            state(name, root, claims=bool(artefact.claims)),
        )
    for name, entry in yaml.safe_load((root / "configs" / "bench.yaml").read_text()).items():
        rows[place(name)] = (entry["item"], f"`make reproduce-{name}`", "", entry["mini"], "", "", state(name, root))
    return pipe_table(COLUMNS, [row for _, row in sorted(rows.items())])


def cost_of(artefact: Artefact, scale: str) -> str:
    """Return an artefact's cost at a scale in words, "" if it has none."""
    words = getattr(artefact.readme, scale)
    if not words:
        return ""
    filled = {"runs": f"{count_runs(artefact, scale):,}"}
    if "{hours}" in words:
        filled["hours"] = gpu_hours(artefact, scale)
    return words.format(**filled)


def gpu_hours(artefact: Artefact, scale: str) -> str:
    """Return the hours of all runs on A100 GPUs, with two digits that count."""
    alike = Counter(
        (settings["task"], settings["regularizer"], settings.get("num_steps"))
        for settings in map(dict, distinct_runs(artefact, scale))
    )
    seconds = 0.0
    for (task, regularizer, num_steps), count in alike.items():
        cfg = configuration(artefact, scale, task, regularizer)
        cfg.num_steps = int(num_steps or cfg.num_steps)
        seconds += count * (run_seconds(cfg) or 0.0)
    return f"{float(f'{seconds / 3600:.2g}'):,.0f}"


def claims(artefacts: Sequence[Artefact], root: Path) -> str:
    """Return a row for each claim: the command, its cost, what the paper prints, and what the committed runs show."""
    rows: dict[Any, list[tuple[str, ...]]] = {}
    for artefact in artefacts:
        readme = artefact.readme
        assert readme is not None
        costs = [cost_of(artefact, scale) for scale in ("mini", "paper")]
        found = {
            scale: {
                one.claim: one.outcome for one in read_findings(root / "results" / scale / artefact.name / "claims.csv")
            }
            for scale in SCALES
        }
        for claim in artefact.claims:
            shown = [f"{scale}: {found[scale][claim.id]}" for scale in SCALES if claim.id in found[scale]]
            row = (claim.text, claim.published, f"`make reproduce-{artefact.name}`", *costs, ", ".join(shown))
            rows.setdefault(place(readme.place or artefact.name), []).append(row)
    head = ("claim", "the paper prints", "command", "mini cost", "paper cost (estimate)", "committed outcome")
    return pipe_table(head, [row for _, group in sorted(rows.items()) for row in group])


def count_runs(artefact: Artefact, scale: str) -> int:
    """Return the number of different runs in the artefact's grids at the scale."""
    return len(distinct_runs(artefact, scale))


def distinct_runs(artefact: Artefact, scale: str) -> set[tuple[tuple[str, str], ...]]:
    """Return the settings of each run in the artefact's grids at the scale."""
    runs, seeds = set(), artefact.scales[scale].seeds
    for grid in artefact.scales[scale].grids:
        own = {"task": grid.task or artefact.task, "seed": grid.seed or seeds, "regularizer": grid.regularizer}
        settings: dict[str, Any] = own | grid.axes
        values = [value if isinstance(value, list) else [value] for value in settings.values()]
        runs |= {tuple(sorted(zip(settings, map(str, run), strict=True))) for run in itertools.product(*values)}
    return runs


def data(name: str, root: Path) -> str:
    """Return the data behind the committed mini-scale results, without the numbers of steps."""
    said = read_facts(root / "results" / "mini" / name / "table.md").get("data", "")
    return "; ".join(part for part in said.split("; ") if not re.fullmatch(r"[\d, ]+ steps", part))


def state(name: str, root: Path, claims: bool = True) -> str:
    """Return what the committed results say, for each scale that has some.

    Args:
        claims: whether the artefact has claims. A table without findings on them is of before version 0.5.
    """
    said = []
    for scale in SCALES:
        folder = root / "results" / scale / name
        if (folder / "table.md").exists():
            found = read_findings(folder / "claims.csv")
            older = ", of before version 0.5" if claims and not found else ""
            said.append(f"[{scale}]({folder.relative_to(root)}/table.md): {shortfall(folder)}{outcomes(found)}{older}")
    return "; ".join(said) or "not run yet"


def shortfall(folder: Path) -> str:
    """Return how many runs there are if some are missing, and how many diverged, else ""."""
    found = re.match(r"(\d+) of (\d+)(?: \((\d+) diverged\))?", read_facts(folder / "table.md").get("runs", ""))
    if found is None:
        return ""
    missing = f"{found[1]} of {found[2]} runs, " if found[1] != found[2] else ""
    return missing + (f"{found[3]} diverged, " if found[3] else "")


def outcomes(findings: Sequence[Finding]) -> str:
    """Return how many claims have each outcome."""
    said = [f"{number} {outcome}" for outcome, number in count_outcomes(findings)]
    return f"{len(findings)} claim{'s' * (len(findings) != 1)}: {', '.join(said)}" if said else "numbers only"


def title_of(folder: Path) -> str:
    return (folder / "table.md").read_text().splitlines()[0].removeprefix("# ")


def main(arguments: list[str]) -> None:
    """Rewrite both files."""
    COMMAND.parse(arguments)
    README.write_text(rewritten(README.read_text()))
    REPRODUCING.write_text(reproducing(REPRODUCING.read_text()))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
