"""CPR in three minutes:  python scripts/demo.py
Trains two runs of the artefact grokking at mini scale, seed 1: AdamW with its best weight decay,
and AdamCPR. Draws their validation accuracy in the terminal while they train. Ends with one figure,
<runs_dir>/demo.png, and prints what it shows. Nothing is downloaded, and `make reproduce`
uses the two runs again.
"""

import sys
from pathlib import Path

from scripts.cli import early

if __name__ == "__main__":
    early.importing()


import threading
import time

from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.text import Text

from scripts.cli.common import one_line_errors
from scripts.cli.parser import RUNS_DIR, Command
from scripts.cli.terminal_curves import curve
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.local import run_all
from scripts.sweep.plan import expand
from scripts.sweep.progress import Progress
from scripts.sweep.run_folders import ended_run
from tasks.engine import records
from tasks.engine.errors import TrainingFailed

COMMAND = Command("scripts/demo.py", __doc__, keys=(RUNS_DIR,))
METHODS = {
    "AdamW, weight decay 1.0": ("adamw", "regularizer.weight_decay", 1.0),
    "CPR, kappa 0.8 x initial size": ("adamcpr_ki0", "regularizer.reg_function", "l2"),
}


def chosen(configs: dict[str, DictConfig]) -> dict[str, DictConfig]:
    """Return the configuration of each method."""
    from results.runs import flatten

    found = {}
    for title, (name, key, value) in METHODS.items():
        found[title] = next(
            cfg
            for cfg in configs.values()
            if cfg.regularizer.name == name and flatten(records.identity(cfg))[key] == value
        )
    return found


def build_kernel() -> None:
    """Build the optimizer's CPU kernel, if this machine has none yet, and say so."""
    from cpr.kernels import build

    if build.library_path().exists():
        return
    print("compiling CPR's CPU kernel, once for this machine, about 20 s ...", flush=True)
    begin = time.monotonic()
    if build.load():
        print(f"... compiled in {time.monotonic() - begin:.0f} s")


def picture(configs: dict[str, DictConfig], steps_per_epoch: int) -> str:
    """Return the curves so far, drawn with characters."""
    from results.runs import read_lines

    lines = {}
    for title, cfg in configs.items():
        rows = read_lines(records.run_folder(cfg) / "metrics.jsonl")
        points = [(row["step"], row["validation_accuracy"]) for row in rows if "validation_accuracy" in row]
        lines[title] = [(step / steps_per_epoch, value) for step, value in points]
    return curve("validation accuracy, %, over epochs", lines)


def train(configs: dict[str, DictConfig], steps_per_epoch: int) -> None:
    """Train the runs that have not ended, with live curves if at a terminal."""
    todo = [cfg for cfg in configs.values() if not records.has_record(cfg)]
    if not todo:
        return
    print(
        f"training {len(todo)} runs of {todo[0].num_steps} steps, one on each core: about a minute and a half",
        flush=True,
    )
    done = threading.Event()
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def watch() -> None:
            while not done.wait(2):
                live.update(Text(picture(configs, steps_per_epoch)), refresh=True)

        watcher = threading.Thread(target=watch, daemon=True)
        if console.is_terminal:
            watcher.start()
        try:
            with Progress("demo", todo, lambda cfg: cfg.num_steps, shown=not console.is_terminal) as progress:
                run_all(todo, 2, "demo", progress)
        finally:
            done.set()
            if watcher.is_alive():
                watcher.join()


def main(arguments: list[str]) -> None:
    """Train, draw, and print the findings."""
    given = {"runs_dir": COMMAND.parse(arguments).options["runs_dir"]}
    begin = time.monotonic()
    build_kernel()
    artefact = load_artefact("grokking")
    configs = chosen(expand(artefact, {"scale": "mini", "seeds": "1"}, given))
    epoch = artefact.curves.x_unit_steps
    train(configs, epoch)

    from results.demo import demo_figure, findings
    from results.figures import draw

    runs = {title: ended_run(records.run_folder(cfg)) for title, cfg in configs.items()}
    whole = {title: run for title, run in runs.items() if run is not None and run.status == "finished"}
    if len(whole) < len(runs):
        raise TrainingFailed("a run of the demo failed; python scripts/status.py grokking seeds=1 tells why")
    (runs_dir,) = {Path(cfg.runs_dir) for cfg in configs.values()}
    (path,) = draw(demo_figure(whole, epoch), runs_dir, "demo", kinds=["png"])
    print(picture(configs, epoch))
    print()
    print("\n".join(findings(whole, epoch)))
    print(f"\n{path}: the curves, and R, κ and λ of two matrices; after {time.monotonic() - begin:.0f} s")
    print("next: make reproduce trains two more seeds, then Figure 2 at mini scale (8 minutes on 2 cores)")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
