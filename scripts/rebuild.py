"""Rebuild every table, figure and the report from the committed records:  python scripts/rebuild.py scale=small

Trains nothing and needs no data. An artefact whose runs are not all committed is left as it is. The
command ends with the names of those of which some are.
"""

import sys
from pathlib import Path

from scripts import report
from scripts.cli.common import one_line_errors
from scripts.cli.parser import RESULTS_DIR, ROOT, SCALE, Command
from scripts.reproduce import COMMAND as REPRODUCE
from scripts.reproduce import NothingCommitted, committed_plan, write_results
from scripts.sweep.artefacts import known_artefacts, load_artefact

COMMAND = Command("scripts/rebuild.py", __doc__, keys=(SCALE, RESULTS_DIR))


def main(arguments: list[str]) -> None:
    """Rebuild the files of every artefact with committed runs, then the page."""
    options = COMMAND.parse(arguments).options
    scale, root = options["scale"], Path(options.get("results_dir", ROOT / "results"))
    partial = []
    for name in known_artefacts():
        artefact = load_artefact(name)
        if scale not in artefact.scales:
            continue
        request = REPRODUCE.parse([name, f"scale={scale}", "records=committed"])
        try:
            p = committed_plan(artefact, request)
        except NothingCommitted:
            continue
        if len(p.runs) < len(p.configs):
            partial.append(name)
        else:
            write_results(p, p.runs, request, root / scale / name)
    report.main(["records=committed", f"results_dir={root}"])
    print(f"not all runs are committed of: {', '.join(partial)}" if partial else "all runs are committed")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
