"""What Slurm is asked for, by the scripts that sbatch gets. No job is submitted here."""

import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import call_forked, is_one_line

from scripts.cli.common import compose_config
from scripts.sweep import sbatch, slurm, staging
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.plan import expand
from scripts.sweep.staging import _copy, staged
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.launchers import minutes
from tasks.engine.verified import CHECKED

LARGEST_ARRAY = 4
PAPER = [name for name in known_artefacts() if "paper" in load_artefact(name).scales]


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Put programs in the place of Slurm's, and return the folder of the scripts that sbatch gets."""
    programs, got = tmp_path / "bin", tmp_path / "got"
    programs.mkdir()
    got.mkdir()
    for name, line in {
        "sbatch": f'n=$(ls {got} | wc -l); cp "$1" {got}/$n; echo Submitted batch job $n',
        "srun": "exit 1",
        "squeue": "true",
        "scontrol": f"echo MaxArraySize = {LARGEST_ARRAY}",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return got


def directives(script: Path) -> dict[str, Any]:
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script.read_text(), re.MULTILINE)
    return {key: shlex.split(value)[0] if value else True for key, value in found}


def of_one_run(scripts: Path, tmp_path: Path, *settings: str) -> tuple[dict[str, Any], str]:
    cfg = compose_config(["task=gpt2", "scale=paper", "launcher=slurm", f"runs_dir={tmp_path / 'runs'}", *settings])
    slurm.submit([cfg], "a run")
    (script,) = scripts.iterdir()
    return directives(script), script.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_each_artefact_asks_for_what_its_runs_need(name, scripts, tmp_path):
    given = {"launcher": "slurm", "runs_dir": str(tmp_path / "runs"), "launcher.parallel": "10"}
    configs = list(expand(load_artefact(name), {"scale": "paper", "seeds": "1"}, given).values())[:10]
    slurm.submit(configs, name)
    jobs = at_a_time = 0
    for script in scripts.iterdir():
        asked, cfg = directives(script), read_config(configs[0])
        first, last, most = map(int, re.fullmatch(r"(\d+)-(\d+)%(\d+)", asked.get("array", "0-0%1")).groups())
        assert first == 0 and last < LARGEST_ARRAY
        jobs += last + 1
        at_a_time += most
        assert (int(asked["nodes"]), int(asked["ntasks-per-node"])) == (cfg.nodes, cfg.gpus)
        assert int(asked["gpus-per-node"].rpartition(":")[2]) >= cfg.gpus
        assert int(asked["cpus-per-task"]) == cfg.launcher.cpus
        assert asked["mem"] == f"{int(1024 * cfg.launcher.memory)}MB"
        assert int(asked["time"]) == minutes(cfg.launcher.time)
        assert asked["signal"] == f"USR2@{cfg.launcher.grace_seconds}"
        assert asked["requeue"] is True and "wckey" not in asked
    assert jobs == len(configs)
    assert at_a_time <= max(10, len(list(scripts.iterdir())))


def test_a_run_of_several_gpus_and_nodes_asks_for_them(scripts, tmp_path):
    asked, script = of_one_run(scripts, tmp_path, "gpus=8", "nodes=2", "launcher.cpus=9", "launcher.memory=null")
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "8", "8")
    assert "mem" not in asked
    assert "--cpus-per-task=9" in next(line for line in script.splitlines() if line.startswith("srun"))


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        (["device=cpu", "gpus=2"], None),
        (["device=cpu"], None),
        (["launcher.gpus=a100:1", "gpus=4"], "a100:4"),
        (["launcher.gpus=4", "gpus=1"], "4"),
        (["launcher.gpus=0"], None),
        (["launcher.gres=gpu:h100:2"], None),
        (["launcher.gres=scratch:200G"], "8"),
        (["+launcher.sbatch.gres=gpu:1"], None),
    ],
)
def test_gpus_are_asked_for_once(scripts, tmp_path, settings, gpus):
    asked, _ = of_one_run(scripts, tmp_path, *settings)
    assert asked.get("gpus-per-node") == gpus
    assert ("gres" in asked) == any("gres" in setting for setting in settings)


def test_lists_switches_and_names_of_sbatch(scripts, tmp_path):
    options = (
        "launcher.exclude=[n1,n2]",
        "launcher.sbatch.exclusive=true",
        "launcher.sbatch.licenses=[a,b]",
        "launcher.sbatch.mem-per-gpu=8G",
    )
    asked, _ = of_one_run(scripts, tmp_path, *options, "launcher.sbatch.requeue_after=null", "launcher.time=24:00:00")
    assert asked["licenses"] == "a,b"
    assert (asked["exclude"], asked["exclusive"], asked["mem-per-gpu"]) == ("n1,n2", True, "8G")
    assert asked["time"] == "1440" and "requeue-after" not in asked


def test_setup_variables_and_a_container_in_the_script(scripts, tmp_path):
    settings = [
        "launcher.setup=[module load cuda]",
        "launcher.env.NCCL_SOCKET_IFNAME=ib0",
        "launcher.env.NCCL_DEBUG=null",
    ]
    container = ["launcher.container=apptainer exec --nv image.sif", "launcher.python=python"]
    _, script = of_one_run(scripts, tmp_path, *settings, *container)
    lines = script.splitlines()
    setup, variable = lines.index("module load cuda"), lines.index("export NCCL_SOCKET_IFNAME=ib0")
    (run,) = (number for number, line in enumerate(lines) if line.startswith("srun "))
    assert setup < variable < run and "NCCL_DEBUG" not in script
    assert "apptainer exec --nv image.sif python -u -m submitit.core._submit" in lines[run]


@pytest.mark.parametrize("launcher_time", [30, "30", "0:30:00", "30:00", "29:01", 29.5])
def test_half_an_hour_in_every_form(launcher_time):
    assert minutes(launcher_time) == 30


@pytest.mark.parametrize(
    ("given", "total"),
    [
        ("1-12:00", 2160),
        ("1-12", 2160),
        ("1-12:00:00", 2160),
        ("24:00:00", 1440),
        ("90:30", 91),
        ("2-0", 2880),
        ("10:30", 11),
    ],
)
def test_days_and_hours(given, total):
    assert minutes(given) == total


@pytest.mark.parametrize(
    "wrong",
    ["abc", 2**31, "99999999999-0", "1:2:3:4", "", "-5", "1-", 0, -1, float("nan"), True, "1_0:00", " 5", "00:00"],
)
def test_a_wrong_time_is_refused(wrong):
    with pytest.raises(ValueError, match="must be minutes, or like 12:00:00"):
        minutes(wrong)


def test_a_time_without_quotes_in_a_cluster_s_file_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("launcher:\n  time: 24:00:00   # a day\n")
    with pytest.raises(
        UserError, match=r"mine\.yaml: time: 24:00:00 is a number of seconds in YAML; write it in quotes"
    ):
        sbatch.check_times_in_files(tmp_path)
    (tmp_path / "mine.yaml").write_text('launcher:\n  time: "24:00:00"\n')
    sbatch.check_times_in_files(tmp_path)


@pytest.mark.parametrize("script", ["train.py", "reproduce.py"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["launcher.time=abc"], ["launcher.time=abc must be minutes, or like"]),
        (["launcher.gress=gpu:1"], ["launcher.gress is unknown; did you mean launcher.gres?"]),
        (["+launcher.gress=gpu:1"], ["launcher.gress is unknown; did you mean launcher.gres?"]),
        (["hydra.launcher.gres=gpu:1"], ["hydra.launcher.gres= has no effect; write launcher.gres="]),
        (["+hydra.launcher.additional_parameters.qos=a"], ["write launcher.sbatch.qos="]),
        (["hydra.launcher.timeout_min=5"], ["write launcher.time="]),
        (["hydra.launcher.tasks_per_node=5"], ["write gpus="]),
        (["launcher.gpus=a100:many"], ["launcher.gpus=a100:many must be", "like a100:4"]),
        (["launcher.sbatch.time=5"], ["has time, which launcher.time= sets"]),
        (["launcher.sbatch.job-name=mine"], ["has job-name, which the suite sets itself"]),
        (["launcher.env.=5"], ["has no name after the last dot of launcher.env."]),
        (["launcher.env.A-B=5"], ["has A-B, which is no name of an environment variable"]),
        (["launcher.nodelist=n[1-2]"], ["quote the value: 'launcher.nodelist=\"n[1-2]\"'"]),
        (["launcher.srun=[--mpi=none]"], ["quote the value: 'launcher.srun=[\"--mpi=none\"]'"]),
    ],
)
def test_a_wrong_key_of_the_launcher_is_one_line(script, settings, words):
    first = ("task=grokking",) if script == "train.py" else ("grokking", "--dry-run")
    done = call_forked(script, *first, "launcher=slurm", *settings)
    assert done.returncode == 2
    is_one_line(done, *words)


@pytest.mark.parametrize("script", ["train.py", "reproduce.py"])
@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ("runs_dir=/x/lr=1e-3", "'runs_dir=\"/x/lr=1e-3\"'"),
        ("runs_dir=/x/a,b", "'runs_dir=\"/x/a,b\"'"),
        ("data_dir=/x/(old)", "'data_dir=\"/x/(old)\"'"),
        ("data_dir=/x/{a}", "'data_dir=\"/x/{a}\"'"),
        ("runs_dir=2026", "'runs_dir=\"2026\"'"),
    ],
)
def test_a_value_that_needs_quotes_is_shown_with_them_and_taken_so(script, given, typed):
    first = ("task=grokking",) if script == "train.py" else ("grokking", "--dry-run")
    done = call_forked(script, *first, given)
    assert done.returncode == 2
    is_one_line(done, typed)
    key, _, value = given.partition("=")
    assert compose_config(shlex.split(typed))[key] == value


def test_a_key_of_slurm_s_launcher_needs_that_launcher():
    done = call_forked("train.py", "task=grokking", "launcher.time=30")
    assert done.returncode == 2
    is_one_line(done, "launcher.time is a key of launcher=slurm")


def test_processes_that_run_side_by_side_are_not_runs_of_several_processes(scripts, tmp_path):
    with pytest.raises(UserError, match=r"launcher\.runs_at_a_time=2 must be 1 for runs of several processes"):
        of_one_run(scripts, tmp_path, "gpus=2", "launcher.runs_at_a_time=2")


def test_data_is_prepared_by_a_job_on_cpus_that_the_runs_wait_for(scripts, tmp_path):
    settings = ["launcher=slurm", "scale=paper", "task=gpt2", "gpus=8", "launcher.prepare=job", "launcher.gres=gpu:8"]
    cfg = compose_config(
        [*settings, "launcher.prepare_partition=cpu", "launcher.partition=gpu", f"runs_dir={tmp_path}"]
    )
    assert slurm.submit([cfg], "a run") == ["1"]
    first, second = (directives(scripts / str(number)) for number in (0, 1))
    assert (first["partition"], first["ntasks-per-node"], first["dependency"]) == ("cpu", "1", "singleton")
    assert not {"gres", "gpus-per-node"} & first.keys()
    assert (second["partition"], second["ntasks-per-node"], second["dependency"]) == ("gpu", "8", "afterok:0")
    assert second["kill-on-invalid-dep"] == "yes"


def make_data(folder: Path) -> None:
    for name in ("large/train/one.bin", "large/two.bin", "small/three.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "large" / CHECKED).write_text("{}")


def test_data_is_copied_to_scratch_once_and_the_rest_is_linked(tmp_path, monkeypatch):
    data = tmp_path / "data"
    make_data(data)
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    there = staged(data, "$NODE_DISK", ["large"])
    assert (there / "large/train/one.bin").read_bytes() == b"large/train/one.bin"
    assert not (there / "large").is_symlink() and (there / "small").resolve() == data / "small"
    assert not (there / "large" / CHECKED).exists()  # so the copies are checked
    copied = (there / "large/two.bin").stat().st_ino
    (data / "large/train/one.bin").write_bytes(b"changed")
    (there / "large/train/.one.bin.tmp").write_bytes(b"left by a killed copy")
    assert staged(data, "$NODE_DISK", ["large"]) == there
    assert (there / "large/train/one.bin").read_bytes() == b"changed"
    assert (there / "large/two.bin").stat().st_ino == copied


def test_processes_of_a_node_copy_at_most_once(tmp_path, monkeypatch):
    data, copies = tmp_path / "data", []
    make_data(data)
    monkeypatch.setattr(staging, "_copy", lambda source, target: (copies.append(source), _copy(source, target)))
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: staged(data, str(tmp_path / "disk"), ["large"]), range(8)))
    assert len(folders) == 1 and len(copies) == 2


def test_scratch_without_space_leaves_the_data_where_it_is(tmp_path, monkeypatch, capfd):
    make_data(tmp_path / "data")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert staged(tmp_path / "data", str(tmp_path / "disk"), ["large"]) == tmp_path / "data"
    assert "0.0 GB free" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("scratch", "names", "said"),
    [
        ("$NO_SUCH_DISK", ["large"], "names a variable"),
        ("/tmp", ["nothing"], "is no folder"),
        ("/tmp", ["large/train"], "is no folder"),
    ],
)
def test_what_cannot_be_staged_is_refused(tmp_path, scratch, names, said):
    make_data(tmp_path)
    with pytest.raises(UserError, match=said):
        staged(tmp_path, scratch, names)
