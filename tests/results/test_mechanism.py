"""mechanism.csv and mechanism.md, and the sentence that other pages take from them."""

import pytest

from results.mechanism import COLUMNS, read, sentence, write_mechanism
from scripts.cli.parser import ROOT

COMMAND = "python scripts/mechanism.py scale=mini"
METHODS = {
    "adamcpr_ip": "inflection_point",
    "adamcpr_ws": "warm_start",
    "adamcpr_ki0": "dependent",
    "adamcpr_k": "uniform",
}


def row(task: str, regularizer: str, **values: str) -> dict[str, str]:
    """Return a row of a replay without differences, but for `values`."""
    made = dict.fromkeys(COLUMNS, "1") | {"task": task, "regularizer": regularizer, "steps": "300"}
    made |= {"kappa_init": METHODS[regularizer], "theta": "1.2e-07", "lambda": "3.1e-07", "kappa": "0.0e+00"}
    return made | {"same_steps": "yes", "ties": "0", "outcome": "reproduced"} | values


DIFFERENT = {"outcome": "differs", "lambda": "3.2e-01"}
LATE = DIFFERENT | {"same_steps": "no"}
UNBOUND = {"outcome": "no bound", "theta": "5.0e-07"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "Mechanism: not replayed."),
        (
            [row("gpt2", "adamcpr_ip"), row("gpt2", "adamcpr_ws")],
            "Mechanism: reproduced. λ, κ and θ of AdamCPR Kappa-IP and Kappa-WS equal the reference over 300 steps "
            "(largest relative difference 3e-7).",
        ),
        (
            [row("gpt2", name) for name in METHODS],
            "Mechanism: reproduced. λ, κ and θ of AdamCPR Kappa-IP, Kappa-WS, Kappa-kI0 and Kappa-K equal the reference "
            "over 300 steps (largest relative difference 3e-7).",
        ),
        (
            [row("gpt2", "adamcpr_ip"), row("gpt2", "adamcpr_ws", **LATE)],
            "Mechanism: differs. λ, κ and θ of AdamCPR Kappa-IP equal the reference over 300 steps (largest relative "
            "difference 3e-7). AdamCPR Kappa-WS leaves the reference within 300 steps (largest relative difference 3e-1, "
            "κ is set at other steps).",
        ),
        (
            [row("gpt2", "adamcpr_ip", **DIFFERENT)],
            "Mechanism: differs. AdamCPR Kappa-IP leaves the reference within 300 steps (largest relative difference 3e-1).",
        ),
        (
            [row("gpt2", "adamcpr_ip"), row("gpt2", "adamcpr_ws", **UNBOUND)],
            "Mechanism: reproduced. λ, κ and θ of AdamCPR Kappa-IP equal the reference over 300 steps (largest relative "
            "difference 3e-7). AdamCPR Kappa-WS set no κ within 300 steps.",
        ),
        (
            [row("gpt2", "adamcpr_ws", **UNBOUND)],
            "Mechanism: not replayed. AdamCPR Kappa-WS set no κ within 300 steps.",
        ),
    ],
    ids=["none", "two", "four", "late", "different", "one without bound", "no bound"],
)
def test_the_sentence_of_a_task(tmp_path, rows, said):
    write_mechanism([row("cifar100", "adamcpr_ip", theta="1.0e-02"), *rows], tmp_path / "mini", COMMAND)
    assert sentence(tmp_path / "mini", "gpt2") == said


def test_without_a_file_nothing_is_said(tmp_path):
    assert sentence(tmp_path, "gpt2") == ""


def test_a_task_s_rows_replace_its_old_ones_and_leave_the_others(tmp_path):
    folder = tmp_path / "mini"
    write_mechanism([row("gpt2", "adamcpr_ws"), row("gpt2", "adamcpr_ip")], folder, COMMAND)
    write_mechanism([row("cifar100", "adamcpr_ip")], folder, COMMAND)
    write_mechanism([row("gpt2", "adamcpr_ip", steps="100")], folder, COMMAND)
    assert [(one["task"], one["steps"]) for one in read(folder)] == [("cifar100", "300"), ("gpt2", "100")]


def test_the_same_rows_give_the_same_bytes_in_any_order(tmp_path):
    rows = [row("gpt2", "adamcpr_ip", hardware="a processor, 1 thread(s) a run"), row("gpt2", "adamcpr_k", ties="2")]
    contents = []
    for order in (rows, rows[::-1]):
        write_mechanism(order, tmp_path / "mini", COMMAND)
        contents.append([(tmp_path / "mini" / f"mechanism.{end}").read_bytes() for end in ("csv", "md")])
    assert contents[0] == contents[1]
    assert "yes, 2 within rounding" in contents[0][1].decode()


@pytest.mark.parametrize("scale", [path.parent.name for path in ROOT.glob("results/*/mechanism.csv")])
def test_the_committed_page_is_made_from_the_committed_rows(tmp_path, scale):
    committed = ROOT / "results" / scale
    write_mechanism(read(committed), tmp_path / scale, f"python scripts/mechanism.py scale={scale}")
    for name in ("mechanism.csv", "mechanism.md"):
        assert (tmp_path / scale / name).read_bytes() == (committed / name).read_bytes()
