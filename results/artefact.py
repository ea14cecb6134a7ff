"""Write the files of results/<scale>/<artefact>/ from runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.budget import budget_figure, budget_table, equal_budget_line, scores
from results.claims import judge
from results.code import code_remark, states_of
from results.curves import curve_figure, curve_table
from results.dynamics import dynamics_figure, dynamics_table
from results.files import draw, write
from results.folds import folds
from results.heatmap import heatmap_figure
from results.interpolation import interpolated, interpolation_figure, interpolation_table
from results.pairs import every_pair, pair_figure, pair_table
from results.progress import pictures, progress, progress_figure, progress_table
from results.runs import Run, frame, with_result
from results.sensitivity import sensitivity_table, tuning_budget
from results.table import best_table, cell_table, claims_table, held_out_note, latex, markdown, readable
from results.to_target import target_table
from results.verdicts import Verdict, to_csv

LEGEND = (
    "Verdicts: *holds* and *does not hold* are significant (p < 0.05 after Holm's correction over an artefact's claims) where a test "
    "applies; *undecided* is neither; *too few seeds to say* means that no outcome of the test could have been significant. Brackets "
    "hold the 95 % bootstrap interval of a median difference. Pairs are of all learning rates that both sides have, not of the best one "
    "alone; those of one seed are not independent of each other, which makes p rather too small. See `results/verdicts.py`."
)
# Only heat maps choose settings, so only their pages print this.
CHOICE = (
    "Which setting a number is of: best cells, the frames in the figures, the shares and steps under the claims and a claim's *a against "
    "b* take the setting that is best by the printed score itself, or by the score that an artefact names to choose by (Figure K.1), as "
    "the paper does, which flatters a method with more settings. A claim's median difference and its p-value do not: at each seed a "
    "method plays the setting that its other seeds choose. The column *chosen by half of the test set* is chosen by one half of the "
    "evaluation data and shows the score on the other."
)


@dataclass(frozen=True)
class Summary:
    """Files that were written, and the text to print in a terminal."""

    text: str
    files: tuple[Path, ...]


def write_artefact(
    artefact: Mapping[str, Any],
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
    artefact = at_scale(artefact, scale)
    runs, lost = with_result(runs)
    verdicts = judge(artefact, scale, runs, complete=len(runs) == expected)
    facts = describe(artefact, scale, runs, expected, command)
    footer = f"{facts['scale']}; seeds {facts['seeds']}; {facts['runs']} runs; {facts['hardware']}"
    remark = code_remark(runs)
    extra, notes = None, [lost, remark, artefact.get("notes", {}).get(scale, "")]
    plain = main = plain_table(artefact, scale, runs, seeds)
    if artefact["layout"] == "heatmap":
        data = frame(runs, artefact["metric"]["name"])
        main, extra = best_table(artefact, data), readable(artefact, plain)
        notes.append(held_out_note(artefact, runs, main))
        figure = heatmap_figure(artefact, data, facts["data"], footer, one_scale=scale == "paper")
    elif artefact["layout"] == "pairs":
        main = pair_table(artefact, runs)
        figure = pair_figure(artefact, scale, runs, footer)
    elif artefact["layout"] == "budget":
        main = budget_table(artefact, scale, runs)
        figure = budget_figure(artefact, scale, runs, footer)
    elif artefact["layout"] == "dynamics":
        figure = dynamics_figure(artefact, runs, footer)
    else:
        figure = curve_figure(artefact, runs, footer)

    claims, beside = claims_table(verdicts), tuning_tables(artefact, runs)
    sections = [section(artefact, runs, out_dir, footer) for section in (_interpolation, _folds, _progress)]
    more, more_files = "".join(text for text, _ in sections), [file for _, files in sections for file in files]
    files = [
        write(out_dir / "table.md", _page(artefact, facts, notes, main, claims, beside, extra) + more),
        write(out_dir / "table.csv", plain.to_csv(index=False)),
        write(out_dir / "table.tex", latex(main if extra is None else extra, artefact["title"])),
        write(out_dir / "claims.csv", to_csv(verdicts)),
        *draw(figure, out_dir),
        *more_files,
    ]
    head = [_head(artefact, facts), *(f"{said}\n" for said in (lost, remark) if said)]
    return Summary(
        "\n".join([*head, markdown(main), "", _claims_in_lines(verdicts), str(out_dir / "table.md")]), tuple(files)
    )


def plain_table(artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], seeds: int) -> pd.DataFrame:
    """Return the content of table.csv for an artefact `at_scale`."""
    if artefact["layout"] == "heatmap":
        return cell_table(artefact, frame(runs, artefact["metric"]["name"]), seeds)
    if artefact["layout"] == "pairs":
        return every_pair(artefact, runs)
    if artefact["layout"] == "budget":
        return scores(artefact, scale, runs)
    return dynamics_table(artefact, runs) if artefact["layout"] == "dynamics" else curve_table(artefact, runs)


def tuning_tables(artefact: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Return a heat map's tables on tuning by title, without empty ones.

    They show how sensitive each method is to its settings, and when it reaches another method's
    final score.
    """
    if artefact["layout"] != "heatmap" or not runs:
        return {}
    data = frame(runs, artefact["metric"]["name"])
    tables = {
        "Sensitivity": sensitivity_table(artefact, data),
        "Steps to the other's final score": target_table(artefact, data, runs),
    }
    return {title: table for title, table in tables.items() if not table.empty}


def _interpolation(
    artefact: Mapping[str, Any], runs: Sequence[Run], out_dir: Path, footer: str
) -> tuple[str, list[Path]]:
    """Return the page's section on interpolated weights and its files, or nothing without such scores."""
    points = interpolated(artefact, runs)
    if points.empty:
        return "", []
    settings = artefact["interpolation"]
    name = settings["name"]
    files = [
        write(out_dir / f"{name}.csv", points.to_csv(index=False)),
        *draw(interpolation_figure(artefact, points, footer), out_dir, name),
    ]
    about = f"{artefact['metric']['label']}, mean over seeds, of every method's best cell."
    lines = ["", f"## {settings['title']}", "", f"{about} {settings['note']}", "", f"![{name}]({name}.png)", ""]
    return "\n".join([*lines, markdown(interpolation_table(artefact, points)), ""]), files


def _folds(artefact: Mapping[str, Any], runs: Sequence[Run], out_dir: Path, _: str) -> tuple[str, list[Path]]:
    """Return the page's line on scores by fold and label, and its file, or nothing without `folds`."""
    if "folds" not in artefact or not runs:
        return "", []
    return f"\n{artefact['folds']}\n", [write(out_dir / "folds.csv", folds(artefact, runs).to_csv(index=False))]


def _progress(artefact: Mapping[str, Any], runs: Sequence[Run], out_dir: Path, footer: str) -> tuple[str, list[Path]]:
    """Return the page's section on scores over training and its files, or nothing without `progress`."""
    rows = progress(artefact, runs)
    if rows.empty:
        return "", []
    settings = artefact["progress"]
    files = [
        write(out_dir / "progress.csv", rows.to_csv(index=False)),
        *draw(progress_figure(artefact, rows, footer), out_dir, "progress"),
    ]
    about = f"Of every method's best cell; thin lines are runs, thick ones their mean. {settings['note']}"
    lines = ["", f"## {settings['title']}", "", about, "", "![progress](progress.png)", ""]
    lines += [markdown(progress_table(artefact, rows)), ""]
    if drawn := pictures(artefact, runs):
        folder = out_dir / settings["pictures"]
        folder.mkdir(exist_ok=True)
        files += [write(folder / name, path.read_bytes()) for name, path in drawn]
        lines += [settings["pictures_note"], ""]
        lines += [
            line
            for name, _ in drawn
            for line in (f"{name.removesuffix('.png')}:", "", f"![{name}]({folder.name}/{name})", "")
        ]
    return "\n".join(lines), files


def at_scale(artefact: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """Return the artefact as this scale has it.

    Panels and claims that belong to other scales are dropped. `select`, `near` and `progress.score`
    get this scale's values.
    """
    kept = {
        key: [one for one in artefact.get(key, ()) if scale in one.get("scales", (scale,))]
        for key in ("panels", "claims")
    }
    kept["panels"] = [
        panel | {"select": _select_at(panel, scale)} if "select" in panel else panel for panel in kept["panels"]
    ]
    if isinstance(nears := artefact.get("metric", {}).get("near"), Mapping):
        kept["metric"] = artefact["metric"] | {"near": nears[scale]}
    if scale in (scores := artefact.get("progress", {}).get("scores", {})):
        kept["progress"] = artefact["progress"] | {"score": scores[scale]}
    return dict(artefact) | kept


def _select_at(panel: Mapping[str, Any], scale: str) -> dict[str, Any]:
    return {key: value[scale] if isinstance(value, Mapping) else value for key, value in panel["select"].items()}


def _machine(hardware: Mapping[str, Any]) -> str:
    processes = hardware.get("processes", 1)
    number = f", {processes} processes" if processes > 1 else ""
    return f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} thread(s) a run{number}"


def describe(
    artefact: Mapping[str, Any], scale: str, runs: Sequence[Run], expected: int, command: str
) -> dict[str, str]:
    """Return the facts above every table. The cost of the runs is left out: equal runs must give equal
    files.
    """

    def distinct(values: list[Any]) -> str:
        return ", ".join(str(v) for v in sorted({v for v in values if v is not None})) or "-"

    hardware = [run.record["hardware"] for run in runs]
    versions = [run.record["versions"] for run in runs]
    diverged = sum(run.record["status"] == "diverged" for run in runs)
    steps: dict[str, set[int]] = {}
    for run in runs:
        steps.setdefault(run.config["task"]["data"]["description"], set()).add(run.config["num_steps"])
    data = [f"{name}; {', '.join(map(str, sorted(numbers)))} steps" for name, numbers in sorted(steps.items())]
    facts = {
        "scale": scale,
        "seeds": distinct([run.config["seed"] for run in runs]),
        "runs": f"{len(runs)} of {expected}" + (f" ({diverged} diverged)" if diverged else ""),
        "data": "; ".join(data) or "-",
        "hardware": distinct([_machine(h) for h in hardware]),
        "versions": distinct([f"Python {v['python']}, torch {v['torch']}" for v in versions]),
        "code": distinct([state.get("git_commit") for run in runs for state in states_of(run.record)]),
        "command": f"`{command}`",
    }
    if artefact["layout"] == "budget":
        facts["equal budget"] = equal_budget_line(artefact, scale, runs)
    if (
        artefact["layout"] == "heatmap"
        and runs
        and (tuned := tuning_budget(artefact, frame(runs, artefact["metric"]["name"])))
    ):
        facts["tuning budget"] = tuned
    return facts


def _head(artefact: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    return (
        f"{artefact['title']}\nscale {facts['scale']}, seeds {facts['seeds']}, {facts['runs']} runs; {facts['data']}\n"
    )


def _page(
    artefact: Mapping[str, Any],
    facts: Mapping[str, str],
    notes: Sequence[str],
    main: pd.DataFrame,
    claims: pd.DataFrame,
    beside: Mapping[str, pd.DataFrame],
    extra: pd.DataFrame | None,
) -> str:
    """Return table.md, with `notes` above the main table and the tables `beside` under the claims."""
    lines = [
        f"# {artefact['title']}",
        "",
        *(f"- {name}: {fact}" for name, fact in facts.items()),
        "",
        "![figure](figure.png)",
        "",
    ]
    lines += [line for note in notes if note for line in (note, "")]
    lines += [markdown(main), ""]
    if artefact["layout"] == "heatmap":
        lines += [CHOICE, ""]
    if len(claims):
        lines += [f"## Claims of {artefact.get('claims_of', 'the paper')}", "", markdown(claims), "", LEGEND, ""]
    for title, table in beside.items():
        lines += [f"## {title}", "", markdown(table), ""]
    if extra is not None:
        metric = artefact["metric"]
        unit = f" in {metric['unit']}" if "unit" in metric else ""
        lines += ["## Every cell", "", f"{metric['label']}{unit}, mean ± std over seeds.", ""]
        lines += [markdown(extra), ""]
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


def _claims_in_lines(verdicts: list[Verdict]) -> str:
    return "".join(
        f"claim: {v.text}\n    {v.verdict}: {v.ours or 'no value'} (paper: {v.published})\n" for v in verdicts
    )
