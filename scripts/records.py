"""Put ended runs into the committed records:  python scripts/records.py figure2 scale=small

Collects the finished and diverged runs of artefacts from runs_dir and adds them to
results/<scale>/records/<task>.jsonl.gz, from which `reproduce.py ARTEFACT records=committed` builds
tables and figures without training. Changes no run's folder.

A run that is committed already stays as it is. If runs_dir has it too, both must agree: bit for bit on
the same hardware with the same versions and kernel, elsewhere within the standard deviation over the
seeds of its cell. Disagreeing runs are reported, and the exit code is 1.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results.committed import DamagedRecords, write_records
from scripts.cli.common import one_line_errors
from scripts.cli.parser import RESULTS_DIR, ROOT, RUNS_DIR, SCALE, Command, Names, Request
from scripts.cli.tables import size
from scripts.sweep.artefacts import asked_for
from scripts.sweep.ended_runs import ended_runs, every_run
from scripts.sweep.plan import expand
from tasks.engine.errors import UserError
from tasks.engine.terminal import say

if TYPE_CHECKING:
    from results.runs import Run

COMMAND = Command(
    "scripts/records.py",
    __doc__,
    Names("ARTEFACT", "artefacts of configs/artefact/ (default: all that have the scale)", example="figure2"),
    (SCALE, RUNS_DIR, RESULTS_DIR),
    {"replace": "let disagreeing runs take the place of the committed ones"},
)


def main(arguments: list[str]) -> None:
    """Add the runs, and print a line for each file and each run that disagrees."""
    request = COMMAND.parse(arguments)
    runs, replace = with_result(request), "replace" in request.flags
    try:
        merged = write_records(runs, Path(request.options.get("results_dir", ROOT / "results")), replace=replace)
    except DamagedRecords as damage:
        raise UserError(str(damage)) from None
    for one in merged:
        print(f"{one}, {size(one.path.stat().st_size)}")
        for line in one.disagreeing:
            say(line)
    if any(one.disagreeing for one in merged) and not replace:
        sys.exit(1)


def with_result(request: Request) -> "list[Run]":
    """Return the finished and diverged runs of the artefacts.
    Raises UserError if there is none.
    """
    folder = request.options["runs_dir"]
    configs = configs_of(request)
    every = ended_runs(configs)
    ended = [run for run in every if run.status != "failed"]
    if failed := [run.run_id for run in every if run.status == "failed"]:
        say(f"left out, because they failed without a result: {', '.join(failed)}")
    if not ended:
        raise UserError(f"none of the {len(configs)} runs has ended in {folder}/; set runs_dir= to another folder")
    print(f"{len(ended)} of {len(configs)} runs have ended in {folder}/")
    return ended


def configs_of(request: Request) -> dict[str, DictConfig]:
    """Return the configurations of the artefacts' runs by run id."""
    found: dict[str, DictConfig] = {}
    for artefact, own in asked_for(request):
        found |= expand(artefact, {"scale": own.options["scale"]}, {"runs_dir": request.options["runs_dir"]}, every_run)
    return found


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
