"""Sections of the report page: artefacts from run records, from committed files, or from published
numbers only.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from results import model_sizes
from results.artefact import at_scale, describe, plain_table, read_facts, tuning_tables
from results.budget import budget_table
from results.claims import judge
from results.code import code_remark, written_remark
from results.interpolation import interpolated, interpolation_table
from results.order import NUMBERED
from results.pairs import pair_table
from results.progress import pictures, progress, progress_table
from results.published import FOLDER
from results.report.heatmaps import heatmap_panels
from results.report.lines import budget_panels, curve_panels, dynamics_panels, interpolation_panels, progress_panels
from results.report.panels import Panel
from results.report.points import pair_panels, time_panels
from results.report.sizes import size_panel
from results.report.thumbnails import Thumbnail, thumbnails
from results.runs import Run, frame, with_result
from results.step_time_limits import judge_times
from results.step_times import READING, TITLES, paper_table, published
from results.step_times import describe as describe_times
from results.step_times import frame as times_frame
from results.table import best_table, held_out_note, readable
from results.verdicts import MISSING, Verdict, from_csv

UNCORRECTED = "These verdicts are of a time before Holm's correction over the artefact's claims: each is by its own p-value alone."
# Regularizer names of Tables I.1 to I.3 for the page's filter. How κ is set changes neither sizes
# nor times.
CPR = ("adamcpr_ip", "adamcpr_k", "adamcpr_ki0", "adamcpr_ws")
TIMED = ("adamw", *CPR, "adadecay", "awd", "amos")
RECORDS, COMMITTED, NOT_RUN, PLANNED = "from records", "from the committed files", "runs missing", "planned"


@dataclass(frozen=True)
class Section:
    """An artefact's section of the page.

    state: the source of its numbers, one of the four above.
    remarks: caveats that a reader must know.
    image: the committed figure.svg, if the committed table can't give an interactive figure.
    far: the distance at the end of the heat maps' colour scale.
    published_as: what the published heat maps show.
    methods: the regularizers, for the page's filter.
    pictures: images from runs of the best cells, with pictures_note on them.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    command: str
    state: str
    verdicts: Sequence[Verdict] = ()
    claims_of: str = "the paper"
    claim_methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    remarks: tuple[str, ...] = ()
    panels: Sequence[Panel] = ()
    far: str = ""
    published_as: str = ""
    image: str = ""
    pictures: Sequence[Thumbnail] = ()
    pictures_note: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    runs: Sequence[Run] = ()


def section(
    artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], folder: Path, *, expected: int, seeds: int
) -> Section:
    """Return an artefact's section, from its records if all runs have ended.

    Otherwise it comes from the committed files if there are any, else from the available records.

    Args:
        runs: only those that the artefact's own grids ask for.
        expected, seeds: as for `write_artefact`.
    """
    artefact = at_scale(artefact, scale)
    runs, lost = with_result(runs)
    base = replace(_base(artefact, scale, folder), remarks=(lost,) if lost else ())
    if (folder / "table.csv").exists() and len(runs) < expected:
        found = _committed(base, artefact, scale, folder)
        return replace(
            found,
            remarks=(
                *found.remarks,
                f"{len(runs)} of its {expected} runs have a record here: no single runs are shown.",
            ),
        )
    if not runs:
        table = plain_table(artefact, scale, [], seeds) if artefact["layout"] == "heatmap" else None
        panels, far = heatmap_panels(artefact, table, []) if table is not None else ([], "")
        verdicts = judge(artefact, scale, [], complete=False)
        return replace(base, verdicts=verdicts, panels=panels, far=far, facts={"runs": f"0 of {expected}"})
    return _from_runs(base, artefact, scale, runs, folder, expected, seeds)


def _base(artefact: Mapping[str, Any], scale: str, folder: Path) -> Section:
    """Return what is known of an artefact without any run."""
    grids = artefact["scales"][scale]["grids"]
    tasks = tuple(dict.fromkeys(str(grid.get("task") or artefact["task"]) for grid in grids))
    methods = tuple(dict.fromkeys(grid["regularizer"] for grid in grids))
    return Section(
        artefact["name"],
        artefact["title"],
        tasks,
        methods,
        _command(artefact["name"], scale),
        NOT_RUN,
        claims_of=artefact.get("claims_of", "the paper"),
        claim_methods={claim["id"]: _claim_methods(artefact, claim) or methods for claim in artefact["claims"]},
        note=artefact.get("notes", {}).get(scale, ""),
        published_as=artefact.get("published_as", ""),
        files=_files(folder),
    )


def _command(name: str, scale: str) -> str:
    return f"make reproduce-{name}" + ("" if scale == "mini" else f" SCALE={scale}")


def _files(folder: Path) -> tuple[str, ...]:
    """Return the folder's files, including those in subfolders."""
    return tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if not path.name.startswith(".")))


def _claim_methods(artefact: Mapping[str, Any], claim: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the regularizers that a claim compares; empty if it names none."""
    known = {panel.get("id", panel["regularizer"]): panel["regularizer"] for panel in artefact["panels"]}
    known |= {method["title"]: method["regularizer"] for method in artefact.get("methods", ())}
    named: list[str] = []
    for side in ("left", "right", "reference"):
        value = claim.get(side, [])
        value = value["method"] if isinstance(value, Mapping) else value
        named += [value] if isinstance(value, str) else value
    return tuple(dict.fromkeys(known[name] for name in named if name in known))


def _from_runs(
    base: Section, artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], folder: Path, expected: int, seeds: int
) -> Section:
    table = plain_table(artefact, scale, runs, seeds)
    panels, far, tables = _shown(artefact, scale, table, runs)
    facts = describe(artefact, scale, runs, expected, base.command)
    facts = {name: fact for name, fact in facts.items() if name != "command"}
    made = replace(
        base,
        state=RECORDS if len(runs) == expected else NOT_RUN,
        verdicts=judge(artefact, scale, runs, complete=len(runs) == expected),
        facts=facts,
        remarks=(*base.remarks, *_remarks(runs, table, folder, expected)),
        note=" ".join(filter(None, (base.note, _held_out_note(artefact, runs, tables)))),
        panels=panels,
        far=far,
        tables=tables,
        runs=runs,
    )
    return _with_progress(made, artefact, progress(artefact, runs), pictures(artefact, runs))


def _with_progress(
    made: Section, artefact: Mapping[str, Any], rows: pd.DataFrame, drawn: Sequence[tuple[str, Path]]
) -> Section:
    """Add the scores over training and the pictures, if there are any."""
    if rows.empty:
        return made
    settings = artefact["progress"]
    return replace(
        made,
        panels=(*made.panels, *progress_panels(artefact, rows)),
        tables=dict(made.tables) | {settings["title"]: progress_table(artefact, rows)},
        pictures=thumbnails(drawn),
        pictures_note=settings.get("pictures_note", ""),
    )


def _held_out_note(artefact: Mapping[str, Any], runs: Sequence[Run], tables: Mapping[str, pd.DataFrame]) -> str:
    return held_out_note(artefact, runs, tables["Best cells"]) if "Best cells" in tables else ""


def _remarks(runs: Sequence[Run], table: pd.DataFrame, folder: Path, expected: int) -> tuple[str, ...]:
    """Return the caveats: missing and diverged runs, several commits, and a committed table with other
    numbers.
    """
    remarks = (
        [f"{expected - len(runs)} of {expected} runs are missing: no claim is judged."] if len(runs) < expected else []
    )
    if diverged := [run for run in runs if run.record["status"] == "diverged"]:
        remarks.append(
            "Diverged: " + "; ".join(f"{run.record['run_id']} ({run.record.get('reason')})" for run in diverged)
        )
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


def _shown(
    artefact: Mapping[str, Any], scale: str, table: pd.DataFrame, runs: Sequence[Run]
) -> tuple[Sequence[Panel], str, dict[str, pd.DataFrame]]:
    """Return panels, the end of the colour scale, and tables.

    Curves and matrices need the runs. The other layouts need only their plain table.
    """
    layout = artefact["layout"]
    if layout == "heatmap":
        panels, far = heatmap_panels(artefact, table, runs)
        data = frame(runs, artefact["metric"]["name"])
        tables = ({"Best cells": best_table(artefact, data)} if runs else {}) | tuning_tables(artefact, runs)
        tables["Every cell"] = readable(artefact, table)
        points = interpolated(artefact, runs)
        if not points.empty:
            panels = [*panels, *interpolation_panels(artefact, points)]
            tables[artefact["interpolation"]["title"]] = interpolation_table(artefact, points)
        return panels, far, tables
    if layout == "pairs":
        tables = {"Means over seeds": pair_table(artefact, runs)} if runs else {}
        return pair_panels(artefact, scale, table, runs), "", tables | {"Every pair": table}
    if not runs:
        return (), "", {"Table": table}
    if layout == "budget":
        return (
            budget_panels(artefact, scale, runs),
            "",
            {"Budgets": budget_table(artefact, scale, runs), "Every run": table},
        )
    return (dynamics_panels if layout == "dynamics" else curve_panels)(artefact, runs), "", {"Table": table}


def _committed(base: Section, artefact: Mapping[str, Any], scale: str, folder: Path) -> Section:
    """Return the section from the files that `make reproduce-<name>` left in results/<scale>/<name>/."""
    table, verdicts = _read_csv(folder / "table.csv", artefact), read_verdicts(folder / "claims.csv")
    panels, far, tables = _shown(artefact, scale, table, [])
    picture = folder / "figure.svg"
    image = (
        "data:image/svg+xml;base64," + base64.b64encode(picture.read_bytes()).decode()
        if not panels and picture.exists()
        else ""
    )
    facts = read_facts(folder / "table.md")
    uncorrected = [UNCORRECTED] if any("p = " in verdict.ours and verdict.p is None for verdict in verdicts) else []
    made = replace(
        base,
        state=COMMITTED,
        remarks=tuple(filter(None, (*base.remarks, *uncorrected, written_remark(facts.get("code", ""))))),
        verdicts=verdicts,
        facts=facts,
        panels=panels,
        far=far,
        tables=tables,
        image=image,
    )
    path = folder / "progress.csv"
    rows = pd.read_csv(path, dtype={"setting": str}) if path.exists() else pd.DataFrame()
    drawn = sorted((folder / artefact.get("progress", {}).get("pictures", "pictures")).glob("*.png"))
    return _with_progress(made, artefact, rows, [(picture.name, picture) for picture in drawn])


def _read_csv(path: Path, artefact: Mapping[str, Any]) -> pd.DataFrame:
    """Read table.csv with settings as text, so that 0.10 and 0.1 stay distinct."""
    if artefact["layout"] == "heatmap":
        table = pd.read_csv(path, dtype={"setting": str})
        table = (
            table if "diverged_paper" in table else table.assign(diverged_paper=float("nan"))
        )  # older tables lack this column
        return table.assign(setting=table["setting"].fillna(""))
    if artefact["layout"] == "pairs":
        return pd.read_csv(path)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def read_verdicts(path: Path) -> list[Verdict]:
    """Return the verdicts of claims.csv; empty without claims."""
    return from_csv(path.read_text()) if path.exists() else []


def step_times_section(name: str, scale: str, folder: Path) -> Section:
    """Return the section of Table I.2 or I.3, from every round's seconds in rounds.json."""
    base = Section(
        name, TITLES[name], ("step times",), TIMED, _command(name, scale), NOT_RUN, files=_files(folder), note=READING
    )
    theirs, path = published(name), folder / "rounds.json"
    record = json.loads(path.read_text()) if path.exists() else {"shapes": {}}
    verdicts = judge_times(name, record, theirs[theirs["row"] == "adamcpr"].set_index("shape")["ratio_paper"].to_dict())
    data = times_frame(record)
    if not path.exists():
        return replace(base, verdicts=[replace(v, verdict=MISSING) for v in verdicts], tables={"Published": theirs})
    facts = {name: fact for name, fact in describe_times(record).items() if name != "command"}
    tables = {"Seconds, and multiples of AdamW": paper_table(data, theirs)}
    return replace(base, state=RECORDS, verdicts=verdicts, facts=facts, panels=time_panels(data), tables=tables)


def model_sizes_section(scale: str, folder: Path) -> Section:
    """Return the section of Table I.1, from its table.csv."""
    name, path = model_sizes.NAME, folder / "table.csv"
    base = Section(
        name,
        model_sizes.TITLE,
        ("gpt2",),
        CPR,
        _command(name, scale),
        NOT_RUN,
        files=_files(folder),
        note=model_sizes.READING,
    )
    if not path.exists():
        return replace(base, tables={"Published": model_sizes.published()})
    data = pd.read_csv(path)
    return replace(
        base,
        state=COMMITTED,
        verdicts=[model_sizes.judge_sizes(data)],
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
        (content["task"],),
        optimizers,
        f"make reproduce-{name}",
        PLANNED,
        tables=tables,
        note=content.get("notes", ""),
    )
