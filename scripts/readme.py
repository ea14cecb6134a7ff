"""Write the generated parts of README.md, REPRODUCING.md and tasks/*/README.md:  python scripts/readme.py
These are the first figure, the findings, the table of artefacts, the table of claims, and the best scores
of a task. Each stands between the comments `<!-- make readme: NAME -->` and `<!-- end -->`. In a task's
README, NAME is an artefact. The parts are made from

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

from results.artefact import is_older, read_facts
from results.artefact_file import SchemaError, read_artefact
from results.evidence.finding import Finding, count_outcomes, read_findings
from results.evidence.paper_scale import paper_scale_sentence
from results.evidence.tables import FINALISTS
from results.order import place
from results.report.summary import direction_sentence, mechanism_sentence
from results.schema import Artefact
from results.table import pipe_table
from scripts.cli.common import one_line_errors
from scripts.cli.parser import ROOT, Command
from scripts.sweep.cards import run_seconds
from scripts.sweep.dry_run import seeds
from scripts.sweep.grids import configuration
from tasks.engine.errors import UserError

COMMAND = Command("scripts/readme.py", __doc__)
README, REPRODUCING = ROOT / "README.md", ROOT / "REPRODUCING.md"
TASK_READMES = sorted(ROOT.glob("tasks/*/README.md"))
PAPER_COLUMN = "best of paper"
FIGURE = ("small", "regime")
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


def of_task(text: str, root: Path = ROOT) -> str:
    """Return the text of a task's README with the committed scores of each artefact that it has a part for."""
    known = {artefact.name: artefact for artefact in artefacts_in(root)}
    parts = {name: scores(known[name], root) for name in re.findall(r"<!-- make readme: (\w+) -->", text)}
    return filled("a task's README.md", text, parts)


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
    said += f" {facts['seen']}." if "seen" in facts else ""
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
            state(name, root, artefact),
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


def scores(artefact: Artefact, root: Path) -> str:
    """Return an artefact's committed scores at each scale: of the settings that were trained on fresh seeds, else
    the first table, without the paper's column.
    """
    lines: list[str] = []
    for scale in SCALES:
        path = root / "results" / scale / artefact.name / "table.md"
        if not path.exists():
            continue
        facts, older = read_facts(path), ", of before version 0.5" * is_older(path, artefact)
        numbers = seeds([int(seed) for seed in facts["seeds"].split(", ")])
        lines += [f"`{path.relative_to(root)}` ({scale} scale, {facts['runs']} runs, seeds {numbers}{older}):", ""]
        page = path.read_text()
        _, heading, finalists = page.partition(f"\n## {FINALISTS}\n")
        lines += [*without_column(first_table(finalists if heading else page), PAPER_COLUMN), ""]
    return "\n".join(lines[:-1]) or "Nothing has been trained yet."


def first_table(page: str) -> list[str]:
    """Return the lines of the first table of a page."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), page.splitlines())
    return list(itertools.takewhile(lambda line: line.startswith("|"), lines))


def without_column(lines: Sequence[str], name: str) -> list[str]:
    """Return a pipe table without one of its columns, if it has it."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    kept = [number for number, title in enumerate(head) if title != name]
    return [f"| {' | '.join(row[number] for number in kept)} |" for row in (head, ["---"] * len(head), *rows)]


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


def state(name: str, root: Path, artefact: Artefact | None = None) -> str:
    """Return what the committed results say, for each scale that has some.

    Args:
        artefact: None for a table of step times or sizes.
    """
    said = []
    for scale in SCALES:
        path = root / "results" / scale / name / "table.md"
        if path.exists():
            found = read_findings(path.with_name("claims.csv"))
            older = ", of before version 0.5" if artefact and is_older(path, artefact) else ""
            said.append(f"[{scale}]({path.relative_to(root)}): {shortfall(path.parent)}{outcomes(found)}{older}")
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
    """Rewrite all of these files."""
    COMMAND.parse(arguments)
    README.write_text(rewritten(README.read_text()))
    REPRODUCING.write_text(reproducing(REPRODUCING.read_text()))
    for path in TASK_READMES:
        path.write_text(of_task(path.read_text()))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
