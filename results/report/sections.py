"""Sections of the report page: artefacts from run records, from committed files, or from published
numbers only.
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import yaml

from results import model_sizes
from results.artefact import describe, evidence_tables, is_older, notes_of, read_facts
from results.code import code_remark, written_remark
from results.evidence.direction import findings, unit_of
from results.evidence.finding import MISSING, Finding, read_findings
from results.evidence.played import play
from results.evidence.published import agreement
from results.interactive import Chart
from results.interpolation import interpolated, interpolation_panels, interpolation_table
from results.layouts import Layout, layout_of
from results.order import NUMBERED
from results.progress import pictures, progress, progress_panels, progress_table
from results.published import FOLDER
from results.report.thumbnails import Thumbnail, thumbnails
from results.report.timings import size_panel, time_panels
from results.runs import Run, with_result
from results.schema import Artefact, at_scale
from results.step_time_limits import judge_times
from results.step_times import READING, TITLES, paper_table, published
from results.step_times import describe as describe_times
from results.step_times import frame as times_frame

# Regularizer names of Tables I.1 to I.3 for the page's filter. How κ is set changes neither sizes
# nor times.
CPR = ("adamcpr_ip", "adamcpr_k", "adamcpr_ki0", "adamcpr_ws")
TIMED = ("adamw", *CPR, "adadecay", "awd", "amos")
OLDER = (
    "This table is of this scale as it was before version 0.5, with other settings. The command above makes it anew."
)
RECORDS, COMMITTED, NOT_RUN, PLANNED = "from records", "from the committed files", "runs missing", "planned"


@dataclass(frozen=True)
class Section:
    """An artefact at one scale.

    state: the source of its numbers, one of the four above.
    about: whose claims it has: "paper", "own" for a question of this suite, "times" for limits on
        times and sizes.
    unit: of the findings' differences.
    agreement: how many cells agree with the published values, and how many differ.
    evidence: sentences on mechanism, regime and control.
    remarks: caveats that a reader must know.
    image: the text of the committed figure.svg, if the committed table can't give an interactive figure.
    published_as: what the published heat maps show.
    methods: the regularizers, for the page's filter.
    pictures: images from runs of the best cells, with pictures_note on them.
    """

    name: str
    title: str
    scale: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    command: str
    state: str
    findings: Sequence[Finding] = ()
    about: str = "paper"
    unit: str = ""
    agreement: Counter[str] = field(default_factory=Counter)
    evidence: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    remarks: tuple[str, ...] = ()
    panels: Sequence[Chart] = ()
    published_as: str = ""
    image: str = ""
    pictures: Sequence[Thumbnail] = ()
    pictures_note: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    runs: Sequence[Run] = ()

    @property
    def scales(self) -> list[str]:
        """What the heat maps' colours mean, ours and the published ones'."""
        return list(dict.fromkeys(panel.scale for panel in self.panels if panel.scale))


def section(artefact: Artefact, scale: str, runs: Sequence[Run], folder: Path, *, expected: int, seeds: int) -> Section:
    """Return an artefact's section, from its records if all runs have ended.

    Otherwise it comes from the committed files if there are any, else from the available records.

    Args:
        runs: only those that the artefact's own grids ask for.
        expected, seeds: as for `write_artefact`.
    """
    artefact = at_scale(artefact, scale)
    runs, lost = with_result(runs)
    base = replace(_base(artefact, folder), remarks=(lost,) if lost else ())
    if (folder / "table.csv").exists() and len(runs) < expected:
        found = _committed(base, artefact, folder)
        said = f"{len(runs)} of its {expected} runs have a record here: no single runs are shown."
        return replace(found, remarks=(*found.remarks, said))
    if not runs:
        layout = layout_of(artefact)
        panels = _panels(layout, artefact, layout.table(artefact, [], seeds), [])
        return replace(
            base, findings=findings(play(artefact, []), False), panels=panels, facts={"runs": f"0 of {expected}"}
        )
    return _from_runs(base, artefact, runs, folder, expected, seeds)


def _base(artefact: Artefact, folder: Path) -> Section:
    """Return what is known of an artefact without any run."""
    grids = artefact.scales[artefact.scale].grids
    methods = tuple(dict.fromkeys(grid.regularizer for grid in grids))
    return Section(
        artefact.name,
        artefact.title,
        artefact.scale,
        tuple(dict.fromkeys(str(grid.task or artefact.task) for grid in grids)),
        methods,
        _command(artefact.name, artefact.scale),
        NOT_RUN,
        about="paper" if artefact.claims_of == "the paper" else "own",
        unit=unit_of(artefact).strip() or (artefact.metric.label if artefact.metric else ""),
        note=artefact.note,
        published_as=artefact.published_as or "",
        files=_files(folder),
    )


def _command(name: str, scale: str) -> str:
    return f"make reproduce-{name}" + ("" if scale == "mini" else f" SCALE={scale}")


def _files(folder: Path) -> tuple[str, ...]:
    """Return the folder's files, including those in subfolders. The page itself has all of table.md."""
    found = (path for path in folder.rglob("*.*") if not path.name.startswith(".") and path.suffix != ".md")
    return tuple(sorted(str(path.relative_to(folder)) for path in found))


def _from_runs(
    base: Section, artefact: Artefact, runs: Sequence[Run], folder: Path, expected: int, seeds: int
) -> Section:
    layout = layout_of(artefact)
    played = play(artefact, runs)
    table = layout.table(artefact, played.tuning, seeds)
    panels = _panels(layout, artefact, table, played.tuning)
    tables = [*layout.tables(artefact, table, played.tuning), *evidence_tables(played, runs)]
    facts = describe(artefact, runs, expected, base.command)
    made = replace(
        base,
        state=RECORDS if len(runs) == expected else NOT_RUN,
        findings=findings(played, complete=len(runs) == expected),
        facts={name: fact for name, fact in facts.items() if name != "command"},
        remarks=(*base.remarks, *_remarks(runs, table, folder, expected)),
        agreement=Counter(agreement(artefact, runs)["agreement"]),
        evidence=notes_of(played, runs, folder.parent),
        note=" ".join(filter(None, (base.note, tables[0].above))),
        panels=panels,
        tables={one.title: one.rows for one in tables},
        runs=runs,
    )
    made = _with_interpolation(made, artefact, interpolated(artefact, runs))
    return _with_progress(made, artefact, progress(artefact, runs), pictures(artefact, runs, folder))


def _panels(layout: Layout, artefact: Artefact, table: pd.DataFrame, runs: Sequence[Run]) -> Sequence[Chart]:
    return layout.panels(artefact, table, runs) if runs or layout.DRAWN_FROM_TABLE else ()


def _with_interpolation(made: Section, artefact: Artefact, points: pd.DataFrame) -> Section:
    """Add the scores of interpolated weights, if there are any."""
    if artefact.interpolation is None or points.empty:
        return made
    return replace(
        made,
        panels=(*made.panels, *interpolation_panels(artefact, points)),
        tables=dict(made.tables) | {artefact.interpolation.title: interpolation_table(artefact, points)},
    )


def _with_progress(made: Section, artefact: Artefact, rows: pd.DataFrame, drawn: Sequence[tuple[str, Path]]) -> Section:
    """Add the scores over training and the pictures, if there are any."""
    if artefact.progress is None or rows.empty:
        return made
    return replace(
        made,
        panels=(*made.panels, *progress_panels(artefact, rows)),
        tables=dict(made.tables) | {artefact.progress.title: progress_table(artefact, rows)},
        pictures=thumbnails(drawn),
        pictures_note=artefact.progress.pictures_note,
    )


def _remarks(runs: Sequence[Run], table: pd.DataFrame, folder: Path, expected: int) -> tuple[str, ...]:
    """Return the caveats: missing and diverged runs, several commits, and a committed table with other
    numbers.
    """
    remarks = (
        [f"{expected - len(runs)} of {expected} runs are missing: no claim is judged."] if len(runs) < expected else []
    )
    if diverged := [run for run in runs if run.status == "diverged"]:
        remarks.append("Diverged: " + "; ".join(f"{run.run_id} ({run.record.get('reason')})" for run in diverged))
    if code := code_remark(runs):
        remarks.append(code)
    path = folder / "table.csv"
    if path.exists() and not _same_numbers(path, table):
        remarks.append(
            "The committed table.csv holds other numbers than these records; the command above writes it anew."
        )
    return tuple(remarks)


def _same_numbers(path: Path, table: pd.DataFrame) -> bool:
    """Compare a written table with this one in their shared columns. Later versions may write more
    columns.
    """
    written, now = (
        pd.read_csv(source, dtype=str, keep_default_na=False)
        for source in (path, io.StringIO(table.to_csv(index=False)))
    )
    shared = [column for column in written.columns if column in now.columns]
    return bool(written[shared].equals(now[shared]))


def _committed(base: Section, artefact: Artefact, folder: Path) -> Section:
    """Return the section from the files that `make reproduce-<name>` left in results/<scale>/<name>/."""
    layout, found = layout_of(artefact), read_findings(folder / "claims.csv")
    table = _read_csv(folder / "table.csv", layout)
    panels, tables = _panels(layout, artefact, table, []), layout.tables(artefact, table, [])
    picture, facts = folder / "figure.svg", read_facts(folder / "table.md")
    image = picture.read_text() if not panels and picture.exists() else ""
    older = OLDER if is_older(folder / "table.md", artefact) else ""
    made = replace(
        base,
        state=COMMITTED,
        remarks=tuple(filter(None, (*base.remarks, written_remark(facts.get("code", "")), older))),
        findings=found,
        facts=facts,
        panels=panels,
        tables={one.title: one.rows for one in tables if one is not tables[0] or one.rows is table},
        image=image,
    )
    path = folder / "progress.csv"
    rows = pd.read_csv(path, dtype={"setting": str}) if path.exists() else pd.DataFrame()
    where = artefact.progress.pictures if artefact.progress else "pictures"
    return _with_progress(made, artefact, rows, [(one.name, one) for one in sorted((folder / where).glob("*.png"))])


def _read_csv(path: Path, layout: Layout) -> pd.DataFrame:
    """Read table.csv: as text to be shown, or with numbers to be drawn.

    Settings are text in both, so that 0.10 and 0.1 stay distinct.
    """
    if not layout.DRAWN_FROM_TABLE:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    table = pd.read_csv(path, dtype={"setting": str})
    return table.fillna({"setting": ""}) if "setting" in table else table


def _of_times(base: Section, folder: Path) -> Section:
    """Return a section about times and sizes with its command and its files."""
    return replace(base, about="times", command=_command(base.name, base.scale), files=_files(folder))


def step_times_section(name: str, scale: str, folder: Path) -> Section:
    """Return the section of Table I.2 or I.3, from every round's seconds in rounds.json."""
    base = _of_times(Section(name, TITLES[name], scale, ("step times",), TIMED, "", NOT_RUN, note=READING), folder)
    theirs, path = published(name), folder / "rounds.json"
    record = json.loads(path.read_text()) if path.exists() else {"shapes": {}}
    limits = judge_times(name, record, theirs[theirs["row"] == "adamcpr"].set_index("shape")["ratio_paper"].to_dict())
    data = times_frame(record)
    if not path.exists():
        return replace(base, findings=[replace(one, outcome=MISSING) for one in limits], tables={"Published": theirs})
    facts = {name: fact for name, fact in describe_times(record).items() if name != "command"}
    tables = {"Seconds, and multiples of AdamW": paper_table(data, theirs)}
    return replace(base, state=RECORDS, findings=limits, facts=facts, panels=time_panels(data), tables=tables)


def model_sizes_section(scale: str, folder: Path) -> Section:
    """Return the section of Table I.1, from its table.csv."""
    name, path = model_sizes.NAME, folder / "table.csv"
    base = Section(name, model_sizes.TITLE, scale, ("gpt2",), CPR, "", NOT_RUN, note=model_sizes.READING)
    base = _of_times(base, folder)
    if not path.exists():
        return replace(base, tables={"Published": model_sizes.published()})
    data = pd.read_csv(path)
    return replace(
        base,
        state=COMMITTED,
        findings=[model_sizes.judge_sizes(data)],
        facts=model_sizes.FACTS,
        tables={"Parameters": model_sizes.sizes_table(data)},
        panels=[size_panel(data)],
    )


def planned_section(name: str) -> Section:
    """Return the section of an artefact with only published numbers (results/published/<name>.yaml)."""
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    found = NUMBERED.fullmatch(name)
    number = f"{found[1].title()} {found[2].upper()}{'.' * bool(found[2])}{found[3]}" if found else name
    title = f"{number}: {content['metric']['name'].replace('_', ' ')}"
    optimizers = tuple(dict.fromkeys(row["optimizer"] for row in content["rows"]))
    tables = {f"Published ({content['source']})": pd.DataFrame(content["rows"])}
    return Section(
        name,
        title,
        "mini",
        (content["task"],),
        optimizers,
        f"make reproduce-{name}",
        PLANNED,
        tables=tables,
        note=content.get("notes", ""),
    )
