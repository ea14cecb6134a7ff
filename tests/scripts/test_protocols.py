"""The configurations at paper scale have the values of the paper, which protocols.yaml repeats independently."""

import itertools
from pathlib import Path

import pytest
import yaml
from commands import ROOT
from omegaconf import OmegaConf

from scripts.cli.common import compose_config

PROTOCOLS = yaml.safe_load(Path(__file__).with_name("protocols.yaml").read_text())
CPR = ("adamcpr_ip", "adamcpr_k", "adamcpr_ki0", "adamcpr_ws", "sgd_cpr")


def number(value):
    """Return a value so that the printed 10^-2.5 and the configured 3.162e-3 are equal."""
    if isinstance(value, list):
        return tuple(number(one) for one in value)
    try:
        return float(f"{float(value):.3g}")
    except (TypeError, ValueError):
        return value


def short(key):
    return key.removeprefix("regularizer.").removeprefix("task.")


def listed(value):
    return value if isinstance(value, list) else [value]


def paper_task(name, *overrides):
    return compose_config([f"task={name}", "scale=paper", *overrides])


@pytest.mark.parametrize("name", PROTOCOLS["tasks"])
def test_a_task_has_the_paper_s_values(name):
    task = paper_task(name).task
    expected = PROTOCOLS["tasks"][name]
    found = {key: OmegaConf.select(task, key, throw_on_missing=True) for key in expected}
    plain = {key: OmegaConf.to_container(one) if OmegaConf.is_config(one) else one for key, one in found.items()}
    assert {key: number(one) for key, one in plain.items()} == {key: number(one) for key, one in expected.items()}


@pytest.mark.parametrize("name", CPR)
def test_cpr_has_the_paper_s_settings(name):
    regularizer = compose_config([f"regularizer={name}", "scale=paper"]).regularizer
    assert {key: regularizer[key] for key in PROTOCOLS["cpr"]} == PROTOCOLS["cpr"]
    assert regularizer.reg_step_size is None  # 10 % of the lr warm-up
    assert regularizer.reg_ema_decay == 0
    assert regularizer.evaluate_at == "before"  # Algorithm 1 as printed


def printed_cells(name):
    """Return the paper's cells as sets of (key, value)."""
    protocol = PROTOCOLS["artefacts"][name]
    shared = {key: listed(protocol[key]) for key in ("task", "lr") if key in protocol}
    for sweep in protocol["sweeps"]:
        (regularizer, axes), *_ = sweep.items()
        axes = shared | axes | {"regularizer": [regularizer]}
        yield from cells_of(axes)


def configured_cells(name):
    """Return the cells of our grids as sets of (key, value), warm starts in steps."""
    artefact = yaml.safe_load((ROOT / "configs" / "artefact" / f"{name}.yaml").read_text())
    for grid in artefact["scales"]["paper"]["grids"]:
        axes = {short(key): listed(value) for key, value in grid.items() if key != "seed"}
        axes.setdefault("task", [artefact.get("task")])
        if "lr" not in axes:
            axes["lr"] = [paper_task(axes["task"][0], f"regularizer={grid['regularizer']}").lr]
        yield from cells_of(axes)


def cells_of(axes):
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        yield frozenset((key, steps(cell) if key == "warm_start" else number(one)) for key, one in cell.items())


def steps(cell):
    """Return a warm start in steps. `2x` is a multiple of the lr warm-up."""
    start = str(cell["warm_start"])
    warm_up = cell.get("schedule.warmup_steps", PROTOCOLS["tasks"][cell["task"]]["schedule.warmup_steps"])
    return number(float(start[:-1]) * warm_up if start.endswith("x") else cell["warm_start"])


@pytest.mark.parametrize("name", PROTOCOLS["artefacts"])
def test_an_artefact_has_the_paper_s_cells(name):
    named = PROTOCOLS["deviations"].get(name, {})
    ours = {frozenset(pair for pair in cell if pair[0] not in named) for cell in configured_cells(name)}
    theirs = {frozenset(pair for pair in cell if pair[0] not in named) for cell in printed_cells(name)}
    assert ours == theirs


def test_an_artefact_has_the_paper_s_seeds():
    for name, protocol in PROTOCOLS["artefacts"].items():
        artefact = yaml.safe_load((ROOT / "configs" / "artefact" / f"{name}.yaml").read_text())
        if "seeds" in protocol:
            assert artefact["scales"]["paper"]["seeds"] == protocol["seeds"], name


def test_every_artefact_at_paper_scale_is_compared_or_our_own():
    own = {"beyond_adam", "beyond_muon", "evaluate_at", "resnet50"}  # questions that the paper does not ask
    files = (ROOT / "configs" / "artefact").glob("*.yaml")
    known = {path.stem for path in files if "paper" in yaml.safe_load(path.read_text())["scales"]}
    assert known == {*PROTOCOLS["artefacts"], *own}
