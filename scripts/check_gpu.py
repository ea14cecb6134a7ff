"""Check a GPU in its first minutes:  python scripts/check_gpu.py

The stages can be run apart:

- kernels: the device's kernel against the plain Algorithm 1 and torch's Adam, on every layout and dtype.
- graphs: whole training steps in CUDA graphs, and no step that waits for the device.
- same_bits: a short run of each task twice, on fake data, with the same bits.
- step_times: Table I.2's optimizer steps and training steps.
- loading: images that the loader reads in a second, beside the model's speed.
- speed: each task at the paper's batch on random inputs: memory, speed, MFU, the engine's loop beside a
  plain one, and the hours of a run.

Writes report.md and report.json into FOLDER after each stage. A stage that takes longer than its share
of `minutes` is stopped, and counts as not run. The exit code is 1 if a stage failed. With device=cpu
everything is tiny: this shows that the check itself works.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.cli.common import one_line_errors
from scripts.cli.parser import ROOT, Command, Key, Names, nearest
from tasks.engine.errors import TrainingFailed, UserError

# Shares of the time, which follow from measurements of an H100.
STAGES = {"kernels": 3, "graphs": 1, "same_bits": 2, "step_times": 2, "loading": 1, "speed": 3}
COMMAND = Command(
    "scripts/check_gpu.py",
    __doc__,
    Names("STAGE", f"stages of {', '.join(STAGES)} (default: all)", example="kernels speed"),
    (
        Key("device", "cuda or cpu", "cuda", choices=("cuda", "cpu")),
        Key("minutes", "for all stages together", 12.0, type=float),
        Key("tasks", "of speed and same_bits, separated by commas", without="all"),
        Key("folder", "the folder of the report", without="build/check_gpu"),
    ),
)


def stage_functions(device: Any, folder: Path, tasks: list[str] | None) -> dict[str, Callable[[float], Any]]:
    """Return a function of the seconds that each stage may take."""
    from scripts.check import same_bits, speed, steps, suites

    return {
        "kernels": lambda seconds: suites.kernels(device, folder, seconds),
        "graphs": lambda seconds: suites.graphs(device, folder, seconds),
        "same_bits": lambda seconds: same_bits.same_bits(device, folder, tasks or list(same_bits.TASKS)),
        "step_times": lambda seconds: steps.step_times(device, folder, seconds),
        "loading": lambda seconds: steps.loading(device, folder, seconds),
        "speed": lambda seconds: speed.speed(device, tasks or list(speed.TASKS), seconds / 2),
    }


def main(arguments: list[str]) -> None:
    """Run the named stages and write the report."""
    request = COMMAND.parse(arguments)
    if unknown := [name for name in request.names if name not in STAGES]:
        raise UserError(f"stage {unknown[0]!r} is unknown{nearest(unknown[0], list(STAGES))}")
    import torch

    from scripts.check.report import FAILED, Stage, write
    from tasks.engine.device import pick_device
    from tasks.engine.environment import state_of

    device = pick_device(request.options["device"])
    if device.type == "cpu":
        torch.set_num_threads(1)
    folder = Path(request.options.get("folder", ROOT / "build" / "check_gpu")).absolute()
    tasks = request.options["tasks"].split(",") if "tasks" in request.options else None
    chosen = [name for name in STAGES if name in (request.names or STAGES)]
    share = 60 * request.options["minutes"] / sum(STAGES[name] for name in chosen)
    functions, stages = stage_functions(device, folder, tasks), []
    for name in chosen:
        print(f"{name} ...", flush=True)
        begin = time.monotonic()
        stage: Stage = functions[name](share * STAGES[name])
        stage.seconds = time.monotonic() - begin
        stages.append(stage)
        print(f"{name}: {stage.outcome}: {stage.said} ({stage.seconds:.0f} s)", flush=True)
        write(folder, state_of(device, 1, None, None), stages)
    print(folder / "report.md")
    if failed := [stage.name for stage in stages if stage.outcome == FAILED]:
        raise TrainingFailed(f"{', '.join(failed)} failed; {folder / 'report.md'} says why")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
