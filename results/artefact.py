"""Write the files of results/<scale>/<artefact>/ from runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import folds, interpolation, progress
from results.artefact_file import nearest
from results.code import code_remark, states_of
from results.evidence.direction import control_sentence, findings
from results.evidence.finding import Finding, findings_table, read_findings, to_csv
from results.evidence.played import Played, play
from results.evidence.published import agreement_table
from results.evidence.tables import finalists_table
from results.figures import draw
from results.files import write
from results.latex import latex
from results.layouts import layout_of
from results.mechanism import sentence
from results.regime import REGIME, regime_sentence
from results.runs import Run, data_of, with_result
from results.schema import Artefact, at_scale
from results.table import Table, markdown

LEGEND = (
    "*Ahead* and *behind*: the difference on seeds that chose no setting is significant (paired t-test, p < 0.05 after Holm's correction "
    "over an artefact's claims). *The same* and *different*: beside half of what the control shows. *Not resolved*: neither. *Numbers "
    "only*: the seeds that chose the settings also score them, or there are too few, so nothing is decided. A difference is positive "
    "if the first method is better, and brackets hold its 95 % interval. See `results/evidence/`."
)


@dataclass(frozen=True)
class Summary:
    """Files that were written, and what to print in a terminal: the table, and the findings in words."""

    text: str
    findings: str
    files: tuple[Path, ...]


def metric_fault(artefact: Artefact, runs: Sequence[Run]) -> str | None:
    """Return why no run has the artefact's metric, or None if one has, or none has finished."""
    if artefact.metric is None or not (finished := [run for run in runs if run.status == "finished"]):
        return None
    wanted, names = artefact.metric.name, sorted({name for run in finished for name in run.scores})
    if wanted not in names:
        return f"metric.name={wanted} is in no run's record{nearest(wanted, names)}"
    for run in finished:
        own = run.record.get("metric") or {}
        if own.get("name") == wanted and own.get("better") not in (None, artefact.metric.better):
            return f"metric.better={artefact.metric.better}, but the task's {wanted} is better if {own.get('better')}"
    return None


def write_artefact(
    artefact: Artefact,
    scale: str,
    runs: Sequence[Run],
    out_dir: Path,
    *,
    expected: int,
    seeds: int,
    command: str,
) -> Summary:
    """Write table.md, table.csv, table.tex, claims.csv, figure.png and figure.svg.

    The same runs give the same bytes. Some keys of the artefact add files:
      `interpolation`: <interpolation.name>.csv, .png and .svg
      `progress`: progress.csv, .png and .svg, and its pictures
      `folds`: folds.csv

    Args:
        expected: number of runs that the artefact's grids have at this scale.
        seeds: number of seeds that the artefact's grids have at this scale.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    artefact, layout = at_scale(artefact, scale), layout_of(artefact)
    runs, lost = with_result(runs)
    played = play(artefact, runs)
    remark, found = code_remark(runs), findings(played, complete=len(runs) == expected)
    facts, notes = describe(artefact, runs, expected, command), notes_of(played, runs, out_dir.parent)
    foot = f"{facts['scale']}; seeds {facts['seeds']}; {facts['runs']} runs; {facts['hardware']}"
    plain = layout.table(artefact, played.tuning, seeds)
    tables = [*layout.tables(artefact, plain, played.tuning), *evidence_tables(played, runs)]
    main, *beside = [tables[0], *(one for one in tables[1:] if one.rows is not plain)]  # table.csv has the plain one
    sections = [part.files(artefact, runs, out_dir, foot) for part in (interpolation, folds, progress)]
    page = _page(artefact, facts, (lost, remark, artefact.note, *notes), main, found, beside)
    files = (
        write(out_dir / "table.md", page + "".join(text for text, _ in sections)),
        write(out_dir / "table.csv", plain.to_csv(index=False)),
        write(out_dir / "table.tex", latex([main, *beside], artefact.name, _about(artefact, facts))),
        write(out_dir / "claims.csv", to_csv(found)),
        *draw(layout.figure(artefact, plain, played.tuning, facts["data"], foot), out_dir),
        *(file for _, more in sections for file in more),
    )
    head = f"{artefact.title}\nscale {scale}, seeds {facts['seeds']}, {facts['runs']} runs; {facts['data']}\n"
    said = [head, *(f"{one}\n" for one in (lost, remark) if one), markdown(main.rows), ""]
    return Summary("\n".join(said), _claims_in_lines(found), files)


def _about(artefact: Artefact, facts: Mapping[str, str]) -> str:
    """Return the start of a caption: the artefact, the data that was really used, and the seeds."""
    return f"{artefact.title}, here on {facts['data']} ({artefact.scale} scale, seeds {facts['seeds']})"


def machine(hardware: Mapping[str, Any]) -> str:
    processes = hardware.get("processes", 1)
    number = f", {processes} processes" if processes > 1 else ""
    return f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} thread(s) a run{number}"


def describe(artefact: Artefact, runs: Sequence[Run], expected: int, command: str) -> dict[str, str]:
    """Return the facts above every table. The cost of the runs is left out: equal runs must give equal
    files.
    """

    def distinct(values: Iterable[Any]) -> str:
        return ", ".join(str(v) for v in sorted({v for v in values if v is not None})) or "-"

    versions = [run.record["versions"] for run in runs]
    diverged = sum(run.status == "diverged" for run in runs)
    facts = {
        "scale": artefact.scale,
        "seeds": distinct(run.seed for run in runs),
        "runs": f"{len(runs)} of {expected}" + (f" ({diverged} diverged)" if diverged else ""),
        "data": data_of(runs),
        "hardware": distinct(machine(run.record["hardware"]) for run in runs),
        "versions": distinct(f"Python {v['python']}, torch {v['torch']}" for v in versions),
        "code": distinct(state.get("git_commit") for run in runs for state in states_of(run.record)),
        "command": f"`{command}`",
    }
    return facts | layout_of(artefact).facts(artefact, runs)


def _page(
    artefact: Artefact,
    facts: Mapping[str, str],
    notes: Sequence[str],
    main: Table,
    found: Sequence[Finding],
    beside: Sequence[Table],
) -> str:
    """Return table.md, with `notes` above the main table and the tables `beside` under the claims."""
    lines = [f"# {artefact.title}", "", *(f"- {name}: {fact}" for name, fact in facts.items()), ""]
    lines += ["![figure](figure.png)", ""]
    lines += [line for note in (*notes, main.above) if note for line in (note, "")]
    lines += [markdown(main.rows), ""]
    lines += [main.below, ""] if main.below else []
    if found:
        lines += [f"## Claims of {artefact.claims_of}", "", markdown(findings_table(found)), "", LEGEND, ""]
    for table in beside:
        lines += [f"## {table.title}", "", *((table.above, "") if table.above else ()), markdown(table.rows), ""]
    return "\n".join(lines)


def read_facts(path: Path) -> dict[str, str]:
    """Return the list `- name: fact` at the top of a table.md, without the command; empty without the
    file.
    """
    facts = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(("!", "##")):
            break
        name, colon, fact = line.removeprefix("- ").partition(": ")
        if line.startswith("- ") and colon and name != "command":
            facts[name] = fact
    return facts


def is_older(path: Path, artefact: Artefact) -> bool:
    """Return whether a table.md was written before version 0.5, when its scale had other settings.

    Since then a table has findings on the artefact's claims. Without claims it names its regime.
    """
    if artefact.claims:
        return not read_findings(path.with_name("claims.csv"))
    return path.exists() and REGIME not in path.read_text()


def notes_of(played: Played, runs: Sequence[Run], folder: Path) -> list[str]:
    """Return what a reader must know beside the claims: mechanism, regime, and whether the control is told apart.

    Args:
        folder: results/<scale>, which has the replays.
    """
    tasks = sorted(
        {"cifar100" if run.task == "cifar100c" else run.task for run in runs}
    )  # cifar100c trains as cifar100
    replays = [sentence(folder, task) for task in tasks]
    return [note for note in (*replays, regime_sentence(played.artefact, runs), control_sentence(played)) if note]


def evidence_tables(played: Played, runs: Sequence[Run]) -> list[Table]:
    """Return the tables of the finalists and of the published values, where there are any."""
    return [table for table in (finalists_table(played), agreement_table(played.artefact, runs)) if table is not None]


def _claims_in_lines(found: Sequence[Finding]) -> str:
    return "\n".join(
        f"claim: {one.text}\n    {one.outcome}: {one.said or 'no value'} (paper: {one.published})" for one in found
    )
