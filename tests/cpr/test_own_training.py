"""Every code block of docs/how-to/own-training.md runs, and its picture shows the page's run.

`python tests/cpr/test_own_training.py` draws the picture again.
"""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import cpr

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "own-training.md"
REFERENCE = ROOT / "docs" / "reference" / "cpr.md"
PICTURE = ROOT / "docs" / "images" / "own-training.svg"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NEEDS = {"timm": ("timm",), "Hugging Face Trainer": ("transformers", "accelerate")}


def sections() -> dict[str, list[tuple[str, str, str]]]:
    """Return (language, title, content) of the code blocks under each heading."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    found = {heading: BLOCK.findall(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {heading: blocks for heading, blocks in found.items() if blocks}


def run(heading: str) -> dict[str, Any]:
    """Run the Python blocks of a section in one namespace, and return it."""
    names: dict[str, Any] = {"__name__": "page"}
    for language, title, content in sections()[heading]:
        if language == "python" and not title:
            exec(compile(content, f"{PAGE.name}: {heading}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a temporary folder, since the page writes checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


def test_the_code_under_every_heading_is_run():
    assert [heading for heading in sections() if heading not in ("Is it working?", "FSDP2")] == [
        *("A plain loop", "timm", "Hugging Face Trainer", "Resume", "Coming from AdamW")
    ]


def test_the_plain_loop_learns_within_its_bounds(capsys):
    names = run("A plain loop")
    printed = capsys.readouterr().out
    assert "Bounded: 2 matrices" in printed and "normalization layer LayerNorm" in printed
    loss = torch.nn.functional.cross_entropy(names["model"](names["inputs"]), names["classes"])
    assert loss < 0.7  # of ln 4
    assert isinstance(names["optimizer"], names["cpr"].CPR)


def test_the_run_in_the_picture_is_as_the_page_describes_it(capsys):
    history = run("Is it working?")["history"]
    assert capsys.readouterr().out.count("κ = ") == 3
    for name in history[600]:
        of_matrix = {step: bounds[name] for step, bounds in history.items()}
        assert all(bound.kappa is None and bound.lam == 0 for step, bound in of_matrix.items() if step <= 100)
        sizes = [bound.R for step, bound in of_matrix.items() if 20 <= step <= 100]
        assert sizes == sorted(sizes) and sizes[-1] > 3 * sizes[0]
        kappa = of_matrix[105].kappa
        assert kappa is not None and kappa == pytest.approx(of_matrix[100].R, rel=1e-4)
        assert all(bound.kappa == kappa for step, bound in of_matrix.items() if step > 100)
        assert all(0.9 < bound.R / kappa < 1.1 for step, bound in of_matrix.items() if step > 100)
        multipliers = {step: bound.lam for step, bound in of_matrix.items()}
        assert max(multipliers.values()) > 5 * multipliers[600]


def test_what_the_page_logs_is_known_before_a_bound_is_set_and_after():
    names = run("Is it working?")
    before, after = (names["to_log"](names["history"][step]) for step in (50, 600))
    assert before == {"cpr/set": 0, "cpr/active": 0, "cpr/lambda": 0}
    bounds = names["history"][600].values()
    assert after["cpr/set"] == 1 and after["cpr/active"] > 0
    assert after["cpr/lambda"] == pytest.approx(sum(bound.lam for bound in bounds) / 3)
    assert after["cpr/largest_size"] == max(bound.R / bound.kappa for bound in bounds)


def test_the_reference_has_every_argument_with_its_default():
    (block,) = re.findall(r"^```python\n(def AdamCPR.*?)^```$", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    printed: dict[str, Any] = {}
    exec(block, printed)
    for public in (cpr.AdamCPR, cpr.CPR):
        theirs, ours = (inspect.signature(one).parameters.values() for one in (printed[public.__name__], public))
        assert [(p.name, p.kind, p.default) for p in theirs] == [(p.name, p.kind, p.default) for p in ours]


def test_timm_s_groups_and_factory_bound_the_same_matrices():
    for module in NEEDS["timm"]:
        pytest.importorskip(module)
    from timm.optim._optim_factory import default_registry

    try:
        names = run("timm")
    finally:
        default_registry._optimizers.pop("adamcpr", None)
    model, optimizer = names["model"], names["optimizer"]
    assert optimizer.param_groups[0]["reg_step_size"] == 50
    chosen = [
        {id(p) for group in groups if group.get("regularize", group["weight_decay"]) for p in group["params"]}
        for groups in (names["groups"], optimizer.param_groups)
    ]
    assert (
        chosen[0]
        == chosen[1]
        == {id(model.get_parameter(name)) for name in names["AdamCPR"](model)._names.values() if bounded(model, name)}
    )


def bounded(model: torch.nn.Module, name: str) -> bool:
    return model.get_parameter(name).ndim > 1 and name not in model.no_weight_decay()


def test_the_trainer_trains_and_its_bounds_are_set(capsys):
    for module in NEEDS["Hugging Face Trainer"]:
        pytest.importorskip(module)
    names = run("Hugging Face Trainer")
    found = names["snapshot"](names["trainer"].optimizer)
    assert len(found) == 4 and all(bound.is_set for bound in found.values())
    assert "Bound(R=" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_shard_save_and_load(tmp_path):
    ((_, title, script), (_, _, command)) = sections()["FSDP2"]
    (tmp_path / title).write_text(script)
    arguments = command.split()
    assert arguments[0] == "torchrun" and arguments[-1] == title
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments[1:]]
    for _ in range(3):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        if "terminate called without an active exception" not in done.stderr:
            break  # rarely, a thread of gloo aborts the process at its end (pytorch issue 190489)
    assert done.returncode == 0, done.stderr
    kappas = [float(value) for value in re.findall(r"kappa=([\d.e-]+)", done.stdout)]
    assert len(kappas) == 2 and all(kappa > 0 for kappa in kappas)


def test_the_resumed_run_ends_with_the_same_bits():
    names = run("Resume")
    assert torch.equal(names["model"].bias, names["resumed"].bias)
    assert names["again"].state[names["resumed"].weight]["kappa_set"]


def test_adamw_s_groups_and_moments_are_kept():
    names = run("Coming from AdamW")
    optimizer, weight = names["optimizer"], names["model"].weight
    assert optimizer.state[weight]["kappa_set"] and "kappa" not in optimizer.state[names["model"].bias]


def test_the_page_is_short():
    text = BLOCK.sub("", PAGE.read_text())
    assert len(re.findall(r"[\w`'./]+", text)) < 1000


# --- the picture


def draw(history: dict[int, Any], path: Path) -> None:
    """Draw R with κ above, and λ below, of every matrix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {
        "svg.hashsalt": "cpr",
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    options = {"sharex": True, "figsize": (7, 4.6), "height_ratios": (3, 2), "layout": "constrained"}
    figure, (above, below) = plt.subplots(2, 1, **options)
    steps, beside = list(history), {"0.weight": 5, "4.weight": -5}  # these two lines end at the same place
    for name, colour in zip(history[steps[-1]], ("#0072b2", "#d55e00", "#009e73"), strict=True):
        bounds = [history[step][name] for step in steps]
        above.plot(steps, [bound.R for bound in bounds], color=colour, label=name, gid=f"R {name}")
        set_at = [(step, bound.kappa) for step, bound in zip(steps, bounds, strict=True) if bound.is_set]
        dashed = {"linestyle": "--", "linewidth": 1, "alpha": 0.8, "gid": f"kappa {name}"}
        above.plot(*zip(*set_at, strict=True), color=colour, **dashed)
        below.plot(steps, [bound.lam for bound in bounds], color=colour, gid=f"lambda {name}")
        above.annotate(
            name,
            (steps[-1], bounds[-1].R),
            (6, beside.get(name, 0)),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    above.axvline(100, color="0.7", linewidth=1, zorder=0)
    above.annotate("κ is set", (100, 0), (4, 4), textcoords="offset points", color="0.4")
    below.axvline(100, color="0.7", linewidth=1, zorder=0)
    above.set_title("Addition modulo 23, AdamCPR, warm start of 100 steps")
    above.set(ylabel="R (solid), κ (dashed)", ylim=(0, None))
    below.set(ylabel="λ", xlabel="step", ylim=(0, None))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def lines(svg: Path) -> dict[str, list[float]]:
    """Return the coordinates of every line with a name."""
    found = re.findall(r'<g id="((?:R|kappa|lambda) [^"]*)">\s*<path d="([^"]*)"', svg.read_text())
    return {name: [float(number) for number in re.findall(r"[\d.]+", path)] for name, path in found}


def test_the_picture_is_of_the_page_s_run(tmp_path):
    pytest.importorskip("matplotlib")
    draw(run("Is it working?")["history"], tmp_path / "again.svg")
    committed, again = lines(PICTURE), lines(tmp_path / "again.svg")
    assert len(committed) == 9 and committed.keys() == again.keys()
    for name, numbers in committed.items():
        # In points. Other machines round differently, and λ swings. The picture must only be of this run.
        assert numbers[:20] == pytest.approx(again[name][:20], abs=2)
        assert f"../images/{PICTURE.name}" in PAGE.read_text()


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(run("Is it working?")["history"], PICTURE)
    print(PICTURE)
