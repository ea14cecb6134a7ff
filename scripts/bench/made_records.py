"""Write records with made-up scores, which report.py and reproduce.py read without any training."""

import functools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scripts.sweep.artefacts import load_artefact
from tasks.engine import records

MATRICES = [
    f"blocks.{layer}.{part}.weight"
    for layer in range(3)
    for part in ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
]
STEPS = (10, 20, 30, 40, 50)
SHARES = [f"wise_ft_{tenth / 10:.1f}" for tenth in range(11)]


@functools.cache
def metrics_of(name: str) -> frozenset[str]:
    """Return every metric that an artefact shows."""
    artefact = load_artefact(name)
    named = {panel.metric for panel in artefact.panels} | {part.metric.name for part in artefact.parts}
    named |= {artefact.metric.name} if artefact.metric else set()
    named |= {*artefact.curves.y} if artefact.curves else set()
    named |= {*SHARES} if artefact.interpolation else set()
    return frozenset(filter(None, named))


def write_run(
    runs_dir: Path,
    cfg: DictConfig,
    metrics: Iterable[str],
    *,
    commit: str = "abc1234",
    diverged: bool = False,
    steps: Sequence[int] = STEPS,
) -> Path:
    """Write one run's folder and return it.
    The scores are between 60 and 70 and follow from the run id. R, κ and λ grow with the steps.
    """
    run_id = records.run_id(cfg)
    draw, folder = random.Random(run_id), runs_dir / cfg.task.name / run_id
    folder.mkdir(parents=True, exist_ok=True)
    scores = {metric: draw.uniform(60, 70) for metric in sorted(metrics)}
    evaluated = [{"step": step} | {name: value - 50 + step for name, value in scores.items()} for step in steps]
    bounded = cfg.regularizer.name not in ("adamw", "sgd", "rescaling")
    rows: list[dict[str, Any]] = [{"matrices": MATRICES}]
    for step in steps:
        sizes = [step * draw.uniform(1e-5, 2e-5) for _ in MATRICES]
        bounds = (
            {"kappa": [None if step < 30 else 5e-4] * len(MATRICES), "lambda": [step / 1e4] * len(MATRICES)}
            if bounded
            else {}
        )
        rows.append({"step": step, "R": sizes} | bounds)
    for log, lines in (("metrics.jsonl", evaluated), ("dynamics.jsonl", rows)):
        (folder / log).write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {
        "run_id": folder.name,
        "config": records.identity(cfg),
        "status": "diverged" if diverged else "finished",
        "reason": "loss is nan at step 7" if diverged else None,
        "metrics": {} if diverged else scores,
        "metric": {"name": sorted(scores)[0], "better": None, "unit": "%"},
        "steps": cfg.num_steps,
        "seconds": 10.0,
        "steps_per_second": 5.0,
        "git_commit": commit,
        "versions": {"python": "3.11", "torch": "2"},
        "hardware": {"cpu": "a processor", "cores": 2, "threads": 1, "gpu": None, "processes": 1},
    }
    records.write_record(folder, record)
    (folder / "config.yaml").write_text(json.dumps(record["config"]))
    return folder
