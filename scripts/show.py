"""Look at one run:  python scripts/show.py adamcpr_ip-s1-1047

Shows its configuration, its result and its curves, and R and κ of one matrix.
"""

import sys

from results.code import commit_of
from results.runs import Run, flatten
from results.series import trace
from scripts.cli.common import one_line_errors, runs_dir_of
from scripts.cli.parser import RUNS_DIR, Command, Key, Names
from scripts.cli.tables import show
from scripts.cli.terminal_curves import curve
from scripts.sweep.run_folders import find, points, state_of
from tasks.engine.errors import UserError

COMMAND = Command(
    "scripts/show.py",
    __doc__,
    Names("RUN", "a run's folder, a run id or the beginning of one", 1, 1, "adamcpr_ip-s1-1047"),
    (
        RUNS_DIR,
        Key(
            "matrix", "a part of a matrix's name", without="the matrix that ends furthest above its bound, or the first"
        ),
    ),
)


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the facts about a run, as rows."""
    flat = flatten(run.config)
    about = {
        "run": run.run_id,
        "state": state_of(run),
        "task": f"{flat['task.name']}, {flat['task.data.description']}, scale {flat['scale']}",
    }
    settings = [
        f"{key.removeprefix('regularizer.')}={value}" for key, value in flat.items() if key.startswith("regularizer.")
    ]
    about |= {
        "method": ", ".join(settings),
        "training": f"lr {flat['lr']:g}, {flat['num_steps']} steps, seed {flat['seed']}",
    }
    if run.record:
        hardware, record = run.record["hardware"], run.record
        metric = record["metric"] or {}
        about |= {
            name: f"{value:.5g} {metric['unit'] if name == metric.get('name') else ''}".rstrip()
            for name, value in record["metrics"].items()
        }
        speed = f", {record['steps_per_second']:.3g} steps/s" if record["steps_per_second"] else ""
        about["took"] = f"{record['seconds']:.0f} s{speed} on {hardware['gpu'] or hardware['cpu']}"
        about["code"] = (
            f"commit {commit_of(record)}, torch {record['versions']['torch']}, kernel {record.get('kernel') or '-'}"
        )
        about["data"] = record.get("data") or "computed, or its digest is unknown"
    return list(about.items())


def matrix_of(run: Run, asked: str | None) -> str | None:
    """Return the matrix to show, or None if nothing is recorded.
    Raises UserError for a name that no matrix has.
    """
    if len(run.dynamics) < 2:
        return None
    names, last = run.dynamics[0]["matrices"], run.dynamics[-1]
    if asked is not None:
        found = [name for name in names if asked in name]
        if not found:
            raise UserError(f"matrix={asked} is in no matrix's name; the matrices are {', '.join(names)}")
        return str(found[0])
    above = {
        name: size / bound for name, size, bound in zip(names, last["R"], last.get("kappa", []), strict=False) if bound
    }
    return max(above, key=lambda name: above[name]) if above else str(names[0])


def main(arguments: list[str]) -> None:
    """Print the run."""
    request = COMMAND.parse(arguments)
    runs_dir = runs_dir_of(request)
    run = find(request.names[0], runs_dir)
    show(("", " "), facts(run))
    for name in dict.fromkeys(("loss", metric["name"] if (metric := run.record.get("metric")) else "validation_loss")):
        print(curve(name, {name: points(run, name)}))
    if (matrix := matrix_of(run, request.options.get("matrix"))) is not None:
        lines = {
            symbol: list(zip(*trace(run, matrix, key), strict=True)) for symbol, key in (("R", "R"), ("κ", "kappa"))
        }
        print(curve(f"R and κ of {matrix}", lines))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
