"""Write the report page results/index.html:  python scripts/report.py

The page is one file for a browser, without a network. It has every claim with its finding, and
every artefact at every scale with interactive figures, the paper's numbers beside ours, and its
command.

Runs come from runs_dir and from results/<scale>/records. If an artefact's runs are not complete, the
page uses what is committed under results/<scale>/<artefact>/, or says what is missing. Trains
nothing, and changes no run's folder.

records=committed takes the runs from results/<scale>/records alone.
"""

import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results.schema import Artefact
from scripts.cli.common import one_line_errors
from scripts.cli.parser import RECORDS, RESULTS_DIR, ROOT, RUNS_DIR, Command, Request
from scripts.cli.tables import size
from scripts.sweep import committed_runs
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.ended_runs import with_committed
from scripts.sweep.plan import expand_and_read, tuning_seeds
from scripts.sweep.run_folders import ended_run
from tasks.engine import records
from tasks.engine.terminal import say

if TYPE_CHECKING:
    from results.report import Section
    from results.runs import Run

COMMAND = Command(
    "scripts/report.py",
    __doc__,
    keys=(RUNS_DIR, RESULTS_DIR, RECORDS),
    refused={"scale": "is gone: the page has every scale"},
)
MOST = 3_000_000  # bytes; a larger page opens slowly and bloats the repository


@cache  # artefacts share runs
def run_on_record(folder: Path) -> "Run | None":
    """Return the run if it has ended and its files are intact.
    A damaged run is reported, left out and left alone. reproduce.py trains it again.
    """
    return ended_run(folder, set_aside=False)


def runs_on_record(configs: Mapping[str, DictConfig]) -> "list[Run]":
    """Return the runs of configurations that have ended."""
    found = (run_on_record(records.run_folder(cfg, run_id)) for run_id, cfg in configs.items())
    return [run for run in found if run is not None]


def every_run(configs: Mapping[str, DictConfig]) -> "list[Run]":
    """Return the runs of configurations that have ended, here or among the committed records."""
    return with_committed(configs, runs_on_record(configs))


def section_of(artefact: Artefact, scale: str, request: Request, root: Path) -> "Section":
    """Return the section of one of configs/artefact/*.yaml, with its own grids and seeds."""
    from results.report import section

    overrides = {key: request.given[key] for key in ("runs_dir",) if key in request.given}
    runs_of = committed_runs.committed_runs if request.options["records"] == "committed" else every_run
    configs, runs = expand_and_read(artefact, {**request.options, "scale": scale}, overrides, runs_of)
    seeds = tuning_seeds(configs.values())
    return section(artefact, scale, runs, root / scale / artefact.name, expected=len(configs), seeds=seeds)


def has_anything(artefact: Artefact, scale: str, request: Request, root: Path) -> bool:
    """Return whether an artefact may have a result at a scale. Expanding all paper-scale grids takes half a minute."""
    if (root / scale / artefact.name).is_dir() or any((committed_runs.FOLDER / scale / "records").glob("*.gz")):
        return True
    return request.options["records"] == "runs" and scale in scales_of_runs(Path(request.options["runs_dir"]))


@cache
def scales_of_runs(runs_dir: Path) -> set[str]:
    """Return the scales of the runs in a folder."""
    texts = (path.read_text(errors="replace") for path in runs_dir.glob("*/*/config.yaml"))
    return {found[1] for text in texts if (found := re.search(r"^scale: (\w+)", text, re.MULTILINE))}


def sections_of(request: Request, root: Path) -> "list[Section]":
    """Return the sections of all artefacts at all of their scales."""
    from results import model_sizes
    from results.published import FOLDER
    from results.report import LEVELS, model_sizes_section, planned_section, step_times_section
    from results.step_times import TITLES

    known = {name: load_artefact(name) for name in known_artefacts()}
    published_alone = sorted({path.stem for path in FOLDER.glob("*.yaml")} - {*known, model_sizes.NAME, *TITLES})
    return [
        *(
            section_of(artefact, scale, request, root)
            for artefact in known.values()
            for scale in sorted(artefact.scales, key=LEVELS.index)
            if has_anything(artefact, scale, request, root) or scale == max(artefact.scales, key=LEVELS.index)
        ),
        *(model_sizes_section(scale, root / scale / model_sizes.NAME) for scale in LEVELS),
        *(step_times_section(name, scale, root / scale / name) for name in TITLES for scale in LEVELS),
        *(planned_section(name) for name in published_alone),
    ]


def main(arguments: list[str]) -> None:
    """Read what there is and write the page."""
    request = COMMAND.parse(arguments)
    from results.report import write_report

    root = Path(request.options.get("results_dir", ROOT / "results"))
    sections = sections_of(request, root)
    path = write_report(sections, root / "index.html")
    if (count := path.stat().st_size) > MOST:
        say(f"{path} has {size(count)}, more than the {size(MOST)} that a report should have, so it opens slowly")
    states = [section.state for section in sections]
    said = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{path}: {len({one.name for one in sections})} artefacts ({said}), {size(count)}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
