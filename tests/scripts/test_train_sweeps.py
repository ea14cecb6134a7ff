"""`train.py -m` counts its runs and ends with one table, and one of means over seeds. A sweep shows each warning once."""

import re
import warnings
from pathlib import Path
from statistics import fmean, stdev

import pytest
from commands import call, call_forked

from scripts.cli.common import compose_config
from scripts.sweep.local import run_all
from scripts.sweep.multirun import runs_of
from tasks.engine import records
from tasks.engine.files import only_process
from tasks.engine.terminal import WARNINGS, shown_once, warnings_of

LATE = ("task=grokking", "quiet=true", "num_steps=4", "regularizer=adamcpr_ws", "regularizer.warm_start=500")
NEVER = "CPR will never act"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Train two runs, and then the same two with two that diverge."""
    runs_dir = tmp_path_factory.mktemp("swept")
    first = call("train.py", *LATE, "-m", "seed=1,2", "lr=1e-3", f"runs_dir={runs_dir}")  # -m may stand anywhere
    second = call("train.py", "-m", *LATE, "seed=1,2", "lr=1e-3,1e30", f"runs_dir={runs_dir}")
    return runs_dir, first, second


def test_a_sweep_counts_its_runs_and_ends_with_a_table_of_all(swept):
    _, first, second = swept
    ids = [records.run_id(compose_config([*LATE, f"seed={seed}"])) for seed in (1, 2)]
    assert (first.returncode, second.returncode) == (0, 1)
    lines = first.stdout.splitlines()
    assert [line for line in lines if line.startswith("run ") and " of 2" in line] == [
        f"run {number} of 2: {run_id}" for number, run_id in enumerate(ids, 1)
    ]
    head, *rows, _, mean_head, mean_row, sums = lines[-7:]
    assert head.split() == ["run", "seed", "validation_accuracy", "(%)", "status"]
    assert [line.split()[:2] for line in rows] == [[ids[0], "1"], [ids[1], "2"]]
    scores = [float(line.split()[2]) for line in rows]
    assert mean_head.split("  ") == ["seeds done", "validation_accuracy (%)"]
    mean, spread = re.fullmatch(r"2 of 2 +(\S+) ± (\S+)", mean_row).groups()
    assert [float(mean), float(spread)] == pytest.approx([fmean(scores), stdev(scores)], abs=0.015)
    assert sums == "2 runs: 2 done"


def test_skipped_and_diverged_runs_are_in_the_table_and_the_sweep_goes_on(swept):
    _, _, done = swept
    head, *rows, _, mean_head, done_twice, diverged_twice, sums = done.stdout.splitlines()[-10:]
    assert head.split() == ["run", "seed", "lr", "validation_accuracy", "(%)", "status", "reason"]
    told = [row.split() for row in rows]
    assert [row[1:3] for row in told] == [["1", "0.001"], ["1", "1e+30"], ["2", "0.001"], ["2", "1e+30"]]
    assert [row[4] for row in told[::2]] == ["done"] * 2 and [row[3] for row in told[1::2]] == ["diverged"] * 2
    assert sums == "4 runs: 2 done, 2 diverged"
    assert mean_head.split() == ["lr", "seeds", "done", "validation_accuracy", "(%)"]
    assert diverged_twice.split() == ["1e+30", "0", "of", "2"]
    assert re.fullmatch(r"0\.001 +2 of 2 +\S+ ± \S+", done_twice.strip())
    assert f"run 1 of 4: {told[0][0]}, which has ended\n" in done.stdout
    assert f"run 2 of 4: {told[1][0]}\n" in done.stdout
    assert done.stderr.count("error: run ") == 2
    end = head.index(" (%)") + 3
    assert all(row[end].isdigit() and row[end + 1] == " " for row in rows[::2])  # numbers end where their name does


def test_a_run_that_another_process_trains_ends_no_sweep(tmp_path):
    cfg = compose_config([*LATE, "seed=1", f"runs_dir={tmp_path}"])
    folder = records.run_folder(cfg)
    folder.mkdir(parents=True)
    with only_process(folder):
        done = call("train.py", "-m", *LATE, "seed=1,2", f"runs_dir={tmp_path}")
    assert done.returncode == 2
    assert f"error: run {folder.name} is being trained by process " in done.stderr
    assert done.stdout.splitlines()[-1] == "2 runs: 1 done, 1 running"


def test_a_single_run_has_neither_a_count_nor_a_table(swept):
    runs_dir, *_ = swept
    done = call_forked("train.py", *LATE, "seed=1", f"runs_dir={runs_dir}")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (["seed=1,2"], []),
        (["-m", "seed=1,2", "task=gpt2"], [["seed=1", "task=gpt2"], ["seed=2", "task=gpt2"]]),
        (["seed=range(1,3)", "--multirun"], [["seed=1"], ["seed=2"]]),
        (["-m", "task.betas=[0.9,0.99]", "lr=choice(1,2)"], [["task.betas=[0.9,0.99]", f"lr={lr}"] for lr in (1, 2)]),
        (["-m", "seed=1,2", "--cfg", "job"], []),
        (["-m", "regularizer=glob(adam*)"], []),
    ],
)
def test_the_runs_of_a_sweep_are_those_that_hydra_starts(arguments, runs):
    assert runs_of(arguments) == runs


def once(said: str, run_ids: list[str]) -> None:
    """Fail unless the warning was shown once, with the name of one of the runs."""
    (line,) = [line for line in said.splitlines() if NEVER in line]
    assert any(line.startswith(f"warning: {run_id}: {NEVER}") for run_id in run_ids)
    assert WARNINGS in line


def test_a_sweep_shows_a_warning_of_all_its_runs_once_and_each_run_keeps_its_own(swept, tmp_path, capfd):
    runs_dir, first, _ = swept
    folders = sorted((runs_dir / "grokking").iterdir())
    once(first.stderr, [folder.name for folder in folders])
    configs = [compose_config([*LATE, f"seed={seed}", f"runs_dir={tmp_path}"]) for seed in (1, 2, 3, 4)]
    run_all(configs, 2, "a sweep")
    once(capfd.readouterr().err, [records.run_id(cfg) for cfg in configs])
    folders += [records.run_folder(cfg) for cfg in configs]
    assert all((folder / WARNINGS).read_text().startswith(NEVER) for folder in folders)
    run_all([compose_config([*LATE, "seed=5", f"runs_dir={tmp_path}"])], 1, "another sweep")
    assert capfd.readouterr().err.count(NEVER) == 1  # what one sweep has shown, the next one shows again


def test_a_library_s_warnings_have_the_run_s_name_and_come_back_in_its_next_run(tmp_path: Path, capfd):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()

    def warned(folder: Path) -> str:
        with warnings_of(folder):
            for _ in range(3):
                warnings.warn("an old\nargument", UserWarning, stacklevel=1)
        return capfd.readouterr().err

    one, two = map(warned, folders)
    assert one.startswith("warning: one: an old argument (UserWarning at test_train_sweeps.py:")
    assert two.startswith("warning: two: an old argument") and len(one.splitlines()) == len(two.splitlines()) == 1
    with shown_once():
        assert warned(folders[0]) and not warned(folders[1])
    assert all(len((folder / WARNINGS).read_text().splitlines()) == 2 for folder in folders)
