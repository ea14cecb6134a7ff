"""Write the report page results/<scale>/index.html:  python scripts/report.py scale=mini

The page is one file for a browser, without a network. It has every claim with its finding, and
every artefact with interactive figures, the paper's numbers beside ours, and its command.

If all runs that reproduce.py would train for an artefact have ended, their records are used.
Otherwise the page uses what is committed under results/<scale>/<artefact>/, or says what is
missing. Trains nothing, and changes no run's folder.

records=committed takes the runs from results/<scale>/records, in place of runs_dir.
"""

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results.schema import Artefact
from scripts.cli.common import one_line_errors
from scripts.cli.parser import RECORDS, RESULTS_DIR, ROOT, RUNS_DIR, SCALE, Command, Request
from scripts.cli.tables import size
from scripts.sweep.committed_runs import committed_runs
from scripts.sweep.plan import asked_for, expand, known_artefacts, tuning_seeds
from scripts.sweep.run_folders import ended_run
from tasks.engine import records
from tasks.engine.terminal import say

if TYPE_CHECKING:
    from results.report import Section
    from results.runs import Run

COMMAND = Command("scripts/report.py", __doc__, keys=(SCALE, RUNS_DIR, RESULTS_DIR, RECORDS))
MOST = 10_000_000  # bytes; a larger page opens slowly and bloats the repository


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


def section_of(artefact: Artefact, request: Request, root: Path) -> "Section":
    """Return the section of one of configs/artefact/*.yaml, with its own grids and seeds."""
    from results.report import section

    overrides = {key: request.given[key] for key in ("runs_dir",) if key in request.given}
    runs_of = committed_runs if request.options["records"] == "committed" else runs_on_record
    configs = expand(artefact, request.options, overrides, runs_of)
    scale, seeds = request.options["scale"], tuning_seeds(configs.values())
    return section(artefact, scale, runs_of(configs), root / scale / artefact.name, expected=len(configs), seeds=seeds)


def main(arguments: list[str]) -> None:
    """Read what there is and write the page."""
    request = COMMAND.parse(arguments)
    from results import model_sizes
    from results.published import FOLDER
    from results.report import model_sizes_section, planned_section, step_times_section, write_report
    from results.step_times import TITLES

    scale, root = request.options["scale"], Path(request.options.get("results_dir", ROOT / "results"))
    known = known_artefacts()
    published_alone = sorted({path.stem for path in FOLDER.glob("*.yaml")} - {*known, model_sizes.NAME, *TITLES})
    sections = [
        *(section_of(artefact, request, root) for artefact, _ in asked_for(request)),
        model_sizes_section(scale, root / scale / model_sizes.NAME),
        *(step_times_section(name, scale, root / scale / name) for name in TITLES),
        *(planned_section(name) for name in published_alone),
    ]
    path = write_report(sections, scale, root / scale / "index.html")
    if (count := path.stat().st_size) > MOST:
        say(f"{path} has {size(count)}, more than the {size(MOST)} that a report should have, so it opens slowly")
    states = [section.state for section in sections]
    said = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{path}: {len(sections)} artefacts ({said}), {size(count)}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
