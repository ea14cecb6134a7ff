"""`make reproduce-all` runs the cheapest artefacts first, and a failing one does not stop the others."""

import subprocess
from types import SimpleNamespace

import pytest
from commands import ROOT, call, records
from made_runs import out_of_memory, run

from scripts import reproduce_all
from scripts.sweep import artefacts
from scripts.sweep.plan import Plan


def to_do(text):
    """Return runs, ended runs and runs to do by artefact, in the order of the list."""
    return {line.split()[0]: tuple(map(int, line.split()[1:4])) for line in text.splitlines()[1:-1]}


@pytest.mark.slow
def test_an_artefact_without_its_data_is_said_and_the_others_are_done(tmp_path, capsys):
    arguments = (
        "table1",
        "grokking",
        "scale=paper",
        "device=cpu",
        "seeds=1",
        "num_steps=4",
        "task.eval_every_steps=null",
    )
    arguments += (f"runs_dir={tmp_path}", f"data_dir={tmp_path / 'none'}", "jobs=1")
    first = call("reproduce_all.py", *arguments)
    assert first.returncode == 1, first.stderr
    said = [line for line in first.stderr.splitlines() if "table1" in line]
    assert [line.split(":")[0] for line in said] == ["table1 is not done", "error"]
    assert "ImageNet" in said[0]
    assert "1 of 2 artefacts are not done: table1" in said[1]
    assert {path.parent.name for path in tmp_path.glob("results/paper/*/table.md")} == {"grokking"}
    assert len(records(tmp_path)) == 6
    reproduce_all.main([*arguments, "--dry-run"])
    assert to_do(capsys.readouterr().out) == {"grokking": (6, 6, 0), "table1": (14, 0, 14)}


def test_a_dry_run_lists_the_cheapest_first_and_counts_shared_runs_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(artefacts, "known_artefacts", lambda: ["figure3", "figure_g1", "figure5", "regime"])
    reproduce_all.main([f"runs_dir={tmp_path / 'runs'}", "--dry-run"])
    listed = capsys.readouterr().out
    # The artefact `regime` has no mini scale. Figure G.1 has Figure 5's three runs, and six of its nine are Figure 3's.
    assert list(to_do(listed).items()) == [("figure5", (3, 0, 3)), ("figure_g1", (9, 0, 6)), ("figure3", (24, 0, 18))]
    assert listed.splitlines()[-1].startswith(
        "3 artefacts, scale mini: 27 runs to do, cost 0.33 core-hours (estimated)"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverged_is_a_result_and_one_that_was_killed_is_not():
    good = [run("adamw", seed, {"accuracy": 1.0}) for seed in (1, 2)]
    assert reproduce_all.judged("a", good, 2) == reproduce_all.Outcome("done")
    diverged = reproduce_all.judged("a", [*good, run("adamw", 3, None)], 3)
    assert (diverged.words, diverged.failed) == ("done, 1 of 3 runs diverged", False)
    killed = reproduce_all.judged("a", [*good, out_of_memory(good[0])], 3)
    assert killed.failed
    assert "1 of 3 runs failed (out of memory" in killed.words
    assert reproduce_all.judged("a", good, 3).failed


def test_a_fault_in_one_artefact_stops_no_other_and_a_cluster_has_all_runs_before_one_is_waited_for(monkeypatch):
    asked = []

    def made_plan(artefact, options, overrides):
        asked.append((artefact.name, options["wait"]))
        if artefact.name == "broken":
            raise ZeroDivisionError("a fault")
        return Plan(artefact, [], [], [])

    monkeypatch.setattr(reproduce_all, "plan", made_plan)
    monkeypatch.setattr(reproduce_all, "writable_folder", lambda p, request: None)
    monkeypatch.setattr(
        reproduce_all,
        "reproduce",
        lambda p, request, out: (p, SimpleNamespace(findings="")) if request.options["wait"] == "true" else None,
    )
    request = reproduce_all.COMMAND.parse(["wait=true"])
    outcomes = reproduce_all.attempt_all([(SimpleNamespace(name=name), request) for name in ("a", "broken", "b")])
    assert asked == [("a", "false"), ("broken", "false"), ("b", "false"), ("a", "true"), ("b", "true")]
    assert {name: outcome.words for name, outcome in outcomes.items()} == {
        "a": "done",
        "broken": "not done: ZeroDivisionError: a fault",
        "b": "done",
    }


def test_make_reproduce_all_installs_the_extras_first_and_measures_times_last():
    def lines(*arguments):
        done = subprocess.run(
            ["make", "-n", "reproduce-all", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout

    extras, bench = 'setup EXTRAS="language segmentation corruptions harness"', "make runs/.bench-mini"
    whole = lines()
    places = [whole.index(word) for word in (extras, "reproduce_all.py scale=mini", bench)]
    assert places == sorted(places)
    listed = lines("ARGS=--dry-run")
    assert extras not in listed
    assert bench not in listed
