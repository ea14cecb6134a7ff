"""A user's mistake gives one line that says what is wrong and how to fix it, and an exit code."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from commands import ROOT, call, call_forked, is_one_line, records, write_fashion_mnist

from tasks.data.images.torchvision_sets import FASHION_MNIST

GROKKING = ("task=grokking", "quiet=true")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("regularizer=nonsense",), ("nonsense", "adamcpr_ip")),
        (("task=nonsense",), ("nonsense",)),
        (("scale=nonsense",), ("nonsense",)),
        (("nonsense=1",), ("nonsense",)),
        (("regularizer=adamcpr_k", "regularizer.kappa_init_param=-1"), ("kappa_init_param=-1",)),
        (("regularizer=adamcpr_ki0", "regularizer.kappa_init_param=0"), ("kappa_init_param=0",)),
        (("regularizer=adamcpr_ws", "regularizer.warm_start=soon"), ("soon", "2x")),
        (("regularizer=adamcpr_ip", "regularizer.reg_function=l3"), ("l3", "huber")),
        (("regularizer=adamw", "regularizer.weight_decay=-0.1"), ("weight_decay=-0.1",)),
        (("scale=paper",), ("GPU", "device=cpu")),
        (("num_steps=0",), ("num_steps=0",)),
        (("lr=-1",), ("lr=-1",)),
        (("task.batch_size=0",), ("batch_size=0",)),
        (("lr=fast",), ("lr=fast", "a number")),
        (("seed=1.5",), ("seed=1.5", "whole number")),
        (("num_steps=ten",), ("num_steps=ten", "whole number")),
        (("threads=0",), ("threads=0",)),
        (("device=meta",), ("device=meta", "cpu")),
        (("quiet=maybe",), ("quiet=maybe", "true or false")),
        (
            ("regularizer=adamcpr_k", "regularizer.kappa_init_param=abc"),
            ("regularizer.kappa_init_param=abc", "a number > 0"),
        ),
        (("regularizer=adamcpr_ip", "regularizer.reg_by_lr=maybe"), ("regularizer.reg_by_lr=maybe", "true or false")),
        (
            ("regularizer=adamcpr_ws", "+regularizer.kappa_init_param=3"),
            ("kappa_init_param=3 is not read by adamcpr_ws", "warm_start"),
        ),
        (("regularizer=adamw", "+regularizer.wd=3"), ("wd=3 is not read by adamw", "weight_decay")),
        (
            ("regularizer=adamcpr_ip", "+regularizer.warmstart=null"),
            ("warmstart=null is not read by adamcpr_ip", "reg_step_size"),
        ),
        (
            ("regularizer=adamw", "+regularizer.warm_start=null"),
            ("warm_start=null is not read by adamw", "weight_decay"),
        ),
        (("regularizer=adamcpr_ws",), ("warm_start=2x", "does not have", "number of steps")),
    ],
    ids=lambda value: value[-1] if value[0].count("=") else "",
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    done = call_forked("train.py", *GROKKING, f"runs_dir={tmp_path}", *arguments)
    assert done.returncode == 2
    is_one_line(done, *words)
    assert not list(tmp_path.glob("**/record.json"))


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("reproduce.py", ("figure99",), ("figure99", "did you mean figure")),
        ("reproduce.py", (), ("figure2",)),
        ("reproduce.py", ("grokking", "jobs=0"), ("jobs=0",)),
        ("reproduce.py", ("grokking", "seeds=one"), ("seeds='one'", "1,2,3")),
        ("reproduce.py", ("grokking", "scale=huge"), ("huge", "mini")),
        ("reproduce.py", ("grokking", "nonsense=1"), ("nonsense",)),
        ("reproduce.py", ("grokking", "regularizer=adamw"), ("regularizer",)),
        ("prepare_data.py", ("nonsense",), ("nonsense", "cifar100")),
        ("prepare_data.py", ("cifar100", "MNIST"), ("MNIST", "CIFAR100")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_other_scripts_refuse_in_the_same_manner(script, arguments, words):
    done = call_forked(script, *arguments)
    assert done.returncode == 2
    is_one_line(done, *words)


def test_a_missing_data_set_is_said_with_the_command_that_brings_it(tmp_path):
    asked = "task=cifar100", "scale=paper", "device=cpu"
    done = call_forked("train.py", *asked, f"runs_dir={tmp_path}", f"data_dir={tmp_path / 'none'}")
    assert done.returncode == 2
    is_one_line(done, "CIFAR100 is not in", "python scripts/prepare_data.py cifar100 CIFAR100")


@pytest.mark.slow
def test_paper_scale_without_a_gpu_is_refused_before_anything_is_written(tmp_path):
    done = call("train.py", "task=cifar100", "regularizer=adamcpr_ip", "scale=paper", f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 2
    is_one_line(done, "GPU", "device=cpu")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_paper_s_own_model_trains_on_a_cpu(tmp_path, data):
    """Train the paper's ResNet18 by its protocol, on images that are not CIFAR-100's."""
    arguments = (
        "task=cifar100",
        "scale=paper",
        "device=cpu",
        "num_steps=2",
        "task.data.name=FashionMNIST",
        "regularizer=adamcpr_ip",
    )
    done = call("train.py", *arguments, f"runs_dir={tmp_path}", f"data_dir={data}")
    assert done.returncode == 0, done.stderr
    assert "of 11,220,132 parameters" in done.stderr
    (record,) = records(tmp_path).values()
    assert record["steps"] == 2
    assert record["config"]["task"]["batch_size"] == 128


@pytest.mark.slow
def test_a_warm_start_after_the_end_is_a_warning_and_the_record_says_that_no_bound_was_set(tmp_path):
    done = call(
        "train.py",
        *GROKKING,
        f"runs_dir={tmp_path}",
        "num_steps=10",
        "regularizer=adamcpr_ws",
        "regularizer.warm_start=500",
    )
    assert done.returncode == 0
    (record,) = records(tmp_path).values()
    said = "CPR will never act: the earliest step at which a bound can be set is 500, and training ends at 10"
    assert f"warning: {record['run_id']}: {said}\n" in done.stderr
    assert "mlp_in.weight" in record["without_bound"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_on_record_and_the_run_is_not_tried_again(tmp_path):
    arguments = ("task=cifar100", "quiet=true", f"runs_dir={tmp_path}", "num_steps=60", "lr=1e30", "regularizer=adamw")
    data_dir = write_fashion_mnist(tmp_path / "data")
    for _ in range(2):
        done = call("train.py", *arguments, f"data_dir={data_dir}", "task.data.train_size=400")
        assert done.returncode == 1
        is_one_line(done, "loss is nan between steps", "to try it again: python scripts/retry.py")
    (record,) = records(tmp_path).values()
    assert record["status"] == "diverged"
    assert record["metrics"] == {}


def test_a_run_that_diverges_ends_no_sweep(tmp_path):
    data_dir = write_fashion_mnist(tmp_path / "data")
    arguments = (
        "task=cifar100",
        "quiet=true",
        f"runs_dir={tmp_path}",
        f"data_dir={data_dir}",
        "task.data.train_size=400",
    )
    done = call("train.py", "-m", *arguments, "num_steps=40", "lr=1e30,1e-3", "regularizer=adamw")
    assert done.returncode == 1
    is_one_line(done, "loss is nan between steps")
    assert sorted(record["status"] for record in records(tmp_path).values()) == ["diverged", "finished"]


def test_a_file_in_place_of_the_runs_folder_is_said(tmp_path):
    (tmp_path / "runs").write_text("")
    done = call_forked("train.py", *GROKKING, f"runs_dir={tmp_path / 'runs'}", "num_steps=2")
    assert done.returncode == 2
    is_one_line(done, "runs_dir=", "cannot hold runs")


@pytest.mark.slow
def test_a_record_of_another_run_is_not_taken_for_this_one_s(tmp_path):
    arguments = (*GROKKING, f"runs_dir={tmp_path}", "regularizer=adamw", "num_steps=10")
    for seed in ("seed=1", "seed=2"):
        assert call("train.py", *arguments, seed).returncode == 0
    one, two = sorted((tmp_path / "grokking").iterdir())
    own = (two / "record.json").read_bytes()
    shutil.copy(one / "record.json", two / "record.json")
    done = call("train.py", *arguments, "seed=2")
    assert done.returncode == 0
    is_one_line(done, "is the record of another run", one.name)
    assert json.loads((two / "record.json").read_bytes())["metrics"] == json.loads(own)["metrics"]


@pytest.mark.slow
def test_a_damaged_data_set_is_not_called_ready(tmp_path):
    data = write_fashion_mnist(tmp_path)  # the right places but wrong contents
    done = call("prepare_data.py", "cifar100", "FashionMNIST", f"data_dir={data}", timeout=300)
    files = list((data / "FashionMNIST" / "raw").glob("*-ubyte"))
    whole = len(files) == 4 and all(
        hashlib.sha256(path.read_bytes()).hexdigest() == FASHION_MNIST[path.name] for path in files
    )
    assert whole == (done.returncode == 0) == ("ready" in done.stdout)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    arguments = (*GROKKING, f"runs_dir={tmp_path}", "regularizer=adamw", "num_steps=10")
    for seed in ("seed=1", "seed=2"):
        assert call("train.py", *arguments, seed).returncode == 0
    one, two = sorted((tmp_path / "grokking").iterdir())
    (two / "record.json").unlink()
    shutil.copy(one / "checkpoint.pt", two / "checkpoint.pt")
    done = call("train.py", *arguments, "seed=2")
    assert done.returncode == 2
    is_one_line(done, f"belongs to run '{one.name}'", "scripts/retry.py")
    assert not (two / "record.json").exists()


@pytest.fixture
def small_disk():
    """Yield a file system of 3 MB. Skip the test if mounting is not allowed."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True).returncode:
            pytest.skip("mounting a file system needs root")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing_half_written(small_disk, tmp_path):
    """A checkpoint of this model takes about 3 MB, so a second one does not fit."""
    arguments = (*GROKKING, "regularizer=adamcpr_ip", "num_steps=30", "checkpoint_every_steps=10")
    done = call("train.py", *arguments, f"runs_dir={small_disk}")
    assert done.returncode == 2
    is_one_line(done, "no space left", "run the same command again")
    (folder,) = (small_disk / "grokking").iterdir()
    assert not (folder / "record.json").exists()
    assert not list(folder.glob(".*.tmp"))
    moved = tmp_path / "runs"
    shutil.copytree(small_disk, moved)
    assert call("train.py", *arguments, f"runs_dir={moved}").returncode == 0


def test_without_space_for_a_file_its_old_content_stays(small_disk):
    """The same holds for every atomic write. This test needs no mounted file system."""
    from tasks.engine.files import write_bytes_atomically

    path = small_disk / "file"
    write_bytes_atomically(path, b"old")
    with pytest.raises(OSError):
        write_bytes_atomically(path, bytes(4_000_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file"]


@pytest.mark.slow
def test_every_regularizer_of_the_configuration_trains(tmp_path):
    names = sorted(path.stem for path in (ROOT / "configs" / "regularizer").glob("*.yaml"))
    done = call(
        "train.py",
        "-m",
        *GROKKING,
        f"runs_dir={tmp_path}",
        "num_steps=4",
        "task.schedule.warmup_steps=1",
        f"regularizer={','.join(names)}",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(record["config"]["regularizer"]["name"] for record in records(tmp_path).values()) == names


@pytest.mark.slow
def test_wandb_offline_keeps_its_files_in_the_run_s_folder_and_its_key_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", key := "0123456789abcdef" * 2 + "01234567")
    done = call("train.py", *GROKKING, f"runs_dir={tmp_path}", "num_steps=10", "logging=wandb")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "grokking").iterdir()
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert json.loads((folder / "record.json").read_text())["status"] == "finished"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


@pytest.mark.parametrize("script", ["train.py", "reproduce.py"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("num_step=48", "num_step is unknown; did you mean num_steps?"),
        ("+num_step=48", "num_step is unknown; did you mean num_steps?"),
        ("task.modle.width=4", "task.modle.width is unknown; did you mean task.model.width?"),
        ("+task.modle.width=4", "task.modle.width is unknown; did you mean task.model.width?"),
        ("logging=wandbb", "logging=wandbb is unknown; did you mean wandb?"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_one(tmp_path, script, given, said):
    first = ("task=grokking",) if script == "train.py" else ("grokking",)
    done = call_forked(script, *first, given, f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 2
    is_one_line(done, said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hlep"], ["--hlep is unknown to train.py", "--help"]),
        (["--dry-run"], ["--dry-run is unknown to train.py", "reproduce.py has it"]),
        (["task", "seed=1"], ["'task' has no value", "task=VALUE"]),
        (["seed=1,2"], ["seed=1,2 has several values", "add -m"]),
        (["task=null"], ["task=null must be one of", "grokking"]),
        (["+seed=3"], ["seed is in the configuration already", "write seed= without the +"]),
        (["task.schedule.start_factor=0.1"], ["not in the task's file", "+task.schedule.start_factor="]),
        (["+task.schedule.start_facto=0.1"], ["is unknown", "did you mean task.schedule.start_factor"]),
        (
            ["task=imagenet", "task.model.arguments={foo:1}"],
            ["task.model.arguments.foo is unknown", "+task.model.arguments.foo="],
        ),
        (["task=imagenet", "+task.model.arguments={1:2}"], ["task.model.arguments has the key 1, which must be text"]),
        (["task=imagenet", "task.model.arguments=[1]"], ["task.model.arguments=[1] must be a section"]),
        (["task=imagenet", "task.model.arguments=3"], ["task.model.arguments=3 must be a section"]),
        (["task.betas={a:1}"], ["task.betas={a:1} must be a list"]),
        (["-m", "regularizer=adamw,adamcpr_ip", "regularizer.weight_decay=1"], ["not a key of every choice"]),
        (["regularizer=adamcpr_k", "regularizer.adaptive=0"], ["regularizer.adaptive=0 is unknown", "false"]),
        (["launcher=slurm", "launcher.time=0"], ["launcher.time=0", "must be minutes"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, words):
    done = call_forked("train.py", *arguments)
    assert done.returncode == 2
    is_one_line(done, *words)
