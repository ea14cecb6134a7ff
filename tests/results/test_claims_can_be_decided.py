"""Mini scale's grids have enough runs: some outcome of every claim's test is significant after Holm."""

import functools
import itertools

import pytest
from made_records import metrics_of
from made_runs import artefact, run

from results import Run
from results.artefact import at_scale
from results.claims import judge
from results.runs import flatten
from results.verdicts import MISSING, TOO_FEW
from scripts.cli.common import compose_config
from scripts.sweep.plan import known_artefacts, seeds_of
from tasks.engine.records import identity

# Artefacts with a claim that can't be decided, and the reasons for their grids.
TOO_SMALL = {
    "table_h1": "three seeds: a fourth, which Holm's correction for four claims needs, would take it from 25 to 34 minutes",
}


@functools.cache
def composed(task: str, regularizer: str) -> dict:
    return flatten(identity(compose_config([f"task={task}", f"regularizer={regularizer}", "scale=mini"])))


def equal_runs(definition: dict) -> list[Run]:
    """Return a run with the same scores for every point of the artefact's grids, so every p-value is 1.

    The verdict on a claim then depends only on the number of its pairs.
    """
    scores, runs = dict.fromkeys(metrics_of(definition["name"]), 99.0), {}
    made = run("a", 1, scores, metrics=({"step": 10} | scores,))
    for grid in definition["scales"]["mini"]["grids"]:
        base = composed(grid.get("task") or definition["task"], grid["regularizer"])
        axes = {
            key: values if isinstance(values, list) else [values]
            for key, values in grid.items()
            if key not in ("task", "regularizer")
        }
        axes["seed"] = seeds_of(definition, grid, {"scale": "mini"})
        for point in itertools.product(*axes.values()):
            config = base | dict(zip(axes, point, strict=True))
            runs[str(config)] = Run(config, made.record | {"run_id": str(len(runs))}, made.metrics)  # grids may overlap
    return list(runs.values())


@pytest.mark.parametrize("name", known_artefacts())
def test_every_claim_can_be_decided_at_mini_scale(name, monkeypatch):
    monkeypatch.setattr(
        "results.differences.interval", lambda differences: None
    )  # bootstraps are slow and change no verdict
    definition = artefact(name)
    verdicts = judge(at_scale(definition, "mini"), "mini", equal_runs(definition), complete=True)
    assert MISSING not in {verdict.verdict for verdict in verdicts}
    too_few = [verdict.claim for verdict in verdicts if verdict.verdict == TOO_FEW]
    assert bool(too_few) == (name in TOO_SMALL), too_few
