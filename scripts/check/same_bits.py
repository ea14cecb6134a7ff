"""The stage that trains a short run of each task twice, and compares the bits of model and optimizer."""

import shutil
from collections import Counter
from pathlib import Path

import torch

from scripts import fake_data
from scripts.check.report import FAILED, NOT_RUN, PASSED, Stage
from scripts.cli.common import compose_config
from scripts.prepare_data import prepare_task
from tasks.engine import fake
from tasks.engine.errors import OutOfMemory, TrainingFailed, UserError
from tasks.engine.run import run

TASKS = ("grokking", "cifar100", "gpt2", "imagenet", "resnet50", "clip", "lora", "segmentation")


def same_bits(device: torch.device, folder: Path, tasks: list[str]) -> Stage:
    """Train the runs of a rehearsal (scripts/rehearse.py) twice, in bfloat16 where the paper does."""
    rows = []
    for number in (1, 2):
        shutil.rmtree(folder / f"runs{number}", ignore_errors=True)  # of an earlier check
    for task in tasks:
        try:
            digests = [_digest(task, device, folder, number) for number in (1, 2)]
            outcome = PASSED if digests[0] == digests[1] else FAILED
            rows.append({"task": task, "outcome": outcome, "sha256": ", ".join(sorted({one[:12] for one in digests}))})
        except UserError as error:  # a package is missing
            rows.append({"task": task, "outcome": NOT_RUN, "sha256": str(error)})
        except (TrainingFailed, OutOfMemory) as error:
            rows.append({"task": task, "outcome": FAILED, "sha256": str(error)})
    counts = Counter(row["outcome"] for row in rows)
    said = f"{counts[PASSED]} of {len(rows)} tasks ended twice with the same bits"
    said += f", {counts[NOT_RUN]} could not be run" if counts[NOT_RUN] else ""
    return Stage("same_bits", PASSED if counts[PASSED] and not counts[FAILED] else FAILED, said, rows)


def _digest(task: str, device: torch.device, folder: Path, number: int) -> str:
    """Return the SHA-256 of model and optimizer after three steps."""
    data = folder / "data"
    prepare_task(task, fake_data.make(task, [], data), data)
    keys = [f"task={task}", f"scale={fake.SCALE}", "regularizer=adamcpr_ws", f"device={device.type}", "quiet=true"]
    cfg = compose_config([*keys, f"data_dir={data}", f"runs_dir={folder / f'runs{number}'}"])
    digest: str = run(cfg)["state_sha256"]
    return digest
