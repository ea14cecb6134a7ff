"""A run over several processes of torchrun or srun equals a run of one process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ENVIRONMENT, ROOT, call, command, is_one_line, records, wait_until, write_fashion_mnist

from scripts.cli.common import compose_config
from tasks.engine.batching import micro_batches
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.launch import Launch, first_machine, launched, meeting_point
from tasks.engine.parallel import Ranks
from tasks.engine.run import run
from tasks.engine.sharding import check_batch_norm, check_parts

# The problem is small, since rounding may open a ReLU for an example in only one of the runs. With the
# task's 512 units and 3,830 examples, this happens within 50 steps and moves the loss by 1e-4. An epoch
# is two batches of 100 and one of 88.
ARGUMENTS = (
    *(
        "task=grokking",
        "task.data.modulus=31",
        "task.model.width=32",
        "task.batch_size=100",
        "num_steps=50",
        "quiet=true",
    ),
    *(
        "regularizer=adamcpr_ws",
        "regularizer.warm_start=10",
        "task.grad_clip=0.05",
        "task.log_every_steps=1",
        "task.eval_every_steps=null",
    ),
)
# Images, without stochastic depth, which each process draws separately. A group of 16 is mixed with
# images of the other process.
IMAGES = (
    *("task=imagenet", "scale=mini", "quiet=true", "num_steps=50", "task.log_every_steps=1", "task.data.train_size=60"),
    *("task.data.val_size=50", "task.batch_size=16", "task.augment.mix_group=16", "task.model.arguments.embed_dim=16"),
    *(
        "task.model.arguments.depth=1",
        "task.model.arguments.drop_path_rate=0",
        "regularizer=adamcpr_ws",
        "regularizer.warm_start=10",
    ),
)


def start_with_torchrun(
    processes: int, runs_dir: Path, *arguments: str, of: tuple[str, ...] = ARGUMENTS
) -> subprocess.Popen:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    line = [*torchrun, str(ROOT / "scripts/train.py"), *of, f"gpus={processes}", f"runs_dir={runs_dir}", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def with_torchrun(processes: int, runs_dir: Path, *arguments: str, of: tuple[str, ...] = ARGUMENTS) -> Path:
    """Train to the end and return `runs_dir`."""
    process = start_with_torchrun(processes, runs_dir, *arguments, of=of)
    said, warned = process.communicate(timeout=240)
    assert process.returncode == 0, warned
    assert len(said.splitlines()) == 1 and "after 50 steps" in said
    return runs_dir


def alone(runs_dir: Path, *arguments: str, of: tuple[str, ...] = ARGUMENTS) -> Path:
    done = call("train.py", *of, f"runs_dir={runs_dir}", *arguments)
    assert done.returncode == 0, done.stderr
    return runs_dir


def as_srun(processes: int, *arguments: str) -> list[tuple[int, str]]:
    """Start the processes of a Slurm step with srun's environment. Return exit codes and error streams."""
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": str(processes),
        "SLURM_STEP_NUM_TASKS": str(processes),
    }
    step |= {"SLURM_STEP_NODELIST": "nowhere[1-2]", "SLURM_STEP_NUM_NODES": "1"}
    started = [
        subprocess.Popen(
            command("train.py", *ARGUMENTS, *arguments),
            env=ENVIRONMENT | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    return [(process.returncode, error) for process, error in zip(started, errors, strict=True)]


def test_train_and_reproduce_start_the_processes_of_a_run_themselves(one, tmp_path):
    done = call("train.py", *ARGUMENTS, "gpus=2", f"runs_dir={tmp_path / 'train'}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "after 50 steps" in done.stdout
    assert only_record(tmp_path / "train")["hardware"]["processes"] == 2
    assert_same_curve(one, tmp_path / "train")
    small = ("task.model.width=32", "task.batch_size=64", "num_steps=24", "seeds=1", "lr=1e-3")
    swept = call("reproduce.py", "grokking", *small, "gpus=2", f"runs_dir={tmp_path / 'reproduce'}")
    assert swept.returncode == 0, swept.stderr
    ended = records(tmp_path / "reproduce").values()
    assert [(r["status"], r["hardware"]["processes"]) for r in ended] == [("finished", 2)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "reproduce.py"])
def test_a_signal_reaches_processes_that_a_command_has_started(script, tmp_path):
    run = ("seed=1", *ARGUMENTS) if script == "train.py" else ("grokking", "seeds=1", "task.log_every_steps=1")
    endless = ("num_steps=1000000", "gpus=2", f"runs_dir={tmp_path}")
    process = subprocess.Popen(
        command(script, *(word for word in run if not word.startswith("num_steps")), *endless),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    wait_until(lambda: any(log.stat().st_size > 1000 for log in tmp_path.glob("*/*/metrics.jsonl")), 120)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said, said
    assert len(list(tmp_path.glob("*/*/checkpoint.pt"))) == 1


def test_what_cannot_be_started_here_is_refused():
    for words, said in {("jobs=2", "gpus=2"): "jobs=2 must be 1", ("nodes=2",): "nodes=2 need launcher=slurm"}.items():
        done = call("reproduce.py", "grokking", "seeds=1", *words)
        assert done.returncode == 2
        is_one_line(done, said)


def only_record(runs_dir: Path) -> dict:
    (record,) = records(runs_dir).values()
    return record


def rows(runs_dir: Path, name: str) -> list[dict]:
    (log,) = runs_dir.glob(f"*/*/{name}.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def losses(runs_dir: Path) -> list[float]:
    found = [row["loss"] for row in rows(runs_dir, "metrics") if "loss" in row]
    assert len(found) == 50
    return found


def assert_same_curve(runs_dir: Path, other: Path) -> None:
    assert losses(runs_dir) == pytest.approx(losses(other), abs=1e-5, rel=0)
    assert only_record(runs_dir)["run_id"] == only_record(other)["run_id"]
    multipliers, others = rows(runs_dir, "dynamics")[-1]["lambda"], rows(other, "dynamics")[-1]["lambda"]
    assert multipliers == pytest.approx(others, rel=1e-2, abs=1e-8) and max(multipliers) > 1e-5


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return alone(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return with_torchrun(2, tmp_path_factory.mktemp("two"))


def test_two_processes_have_the_loss_curve_of_one_and_the_record_says_how_many_they_were(one, two):
    assert_same_curve(two, one)
    assert only_record(one)["hardware"]["processes"] == 1 and only_record(two)["hardware"]["processes"] == 2


@pytest.mark.weekly
def test_two_processes_that_read_images_have_the_loss_curve_of_one(tmp_path):
    data = f"data_dir={write_fashion_mnist(tmp_path / 'data')}"
    single = alone(tmp_path / "one", data, of=IMAGES)
    assert_same_curve(with_torchrun(2, tmp_path / "two", data, "loader_workers=1", of=IMAGES), single)


@pytest.mark.slow
def test_four_processes_with_micro_batches_have_the_loss_curve_of_one(one, tmp_path):
    assert_same_curve(with_torchrun(4, tmp_path, "micro_batch=5"), one)


@pytest.mark.slow
def test_micro_batches_of_one_process_have_the_loss_curve_of_one_pass(one, tmp_path):
    assert_same_curve(alone(tmp_path, "micro_batch=20"), one)


def stopped(runs_dir: Path, *arguments: str) -> Path:
    """Start a run of two processes and stop it with SIGTERM after a dozen steps. Return its runs_dir."""
    process = start_with_torchrun(2, runs_dir, *arguments)
    wait_until(lambda: any(log.read_bytes().count(b"\n") > 12 for log in runs_dir.glob("*/*/metrics.jsonl")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert said.count("run the same command to resume") == 1, said
    assert not records(runs_dir)
    (checkpoint,) = runs_dir.glob("*/*/checkpoint.pt")
    assert 12 < torch.load(checkpoint)["step"] < 50
    return runs_dir


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_goes_on_with_two_to_the_same_bits_and_with_one_or_shards_to_the_same_curve(
    one, two, tmp_path
):
    stopped(tmp_path / "two")
    for copy in ("one", "shards"):
        shutil.copytree(tmp_path / "two", tmp_path / copy)
    with_torchrun(2, tmp_path / "two")
    assert only_record(tmp_path / "two")["state_sha256"] == only_record(two)["state_sha256"]
    for name in ("metrics", "dynamics"):
        assert rows(tmp_path / "two", name) == rows(two, name)
    assert_same_curve(alone(tmp_path / "one"), one)
    assert_same_curve(with_torchrun(2, tmp_path / "shards", "parallel=fsdp"), one)


@pytest.mark.weekly
def test_shards_with_gradient_checkpointing_have_the_loss_curve_of_one_process(tmp_path):
    write_fashion_mnist(tmp_path)
    single = alone(tmp_path / "one", f"data_dir={tmp_path}", of=IMAGES)
    keys = (f"data_dir={tmp_path}", "parallel=fsdp", "gradient_checkpointing=true")
    assert losses(with_torchrun(2, tmp_path / "two", *keys, of=IMAGES)) == pytest.approx(
        losses(single), abs=1e-5, rel=0
    )


@pytest.mark.slow
def test_a_stopped_run_with_sharded_parameters_has_the_loss_curve_of_one_process_and_goes_on_with_one(one, tmp_path):
    assert_same_curve(alone(stopped(tmp_path, "parallel=fsdp")), one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("gpus=4",), 2, "nodes=1 x gpus=4 need 4 process(es), and 2 started"),
        (("gpus=2", "runs_dir=LICENSE"), 2, "runs_dir=LICENSE cannot hold runs"),
        (("gpus=2", "lr=1e30", "task.grad_clip=null"), 1, "loss is nan between steps"),
    ],
    ids=["number of processes", "in the first process alone", "while they train"],
)
def test_what_goes_wrong_is_said_once_and_ends_every_process(tmp_path, arguments, code, words):
    ended = as_srun(2, f"runs_dir={tmp_path}", *arguments)
    assert [exit_code for exit_code, _ in ended] == [code, code], ended
    (line,) = "".join(said for _, said in ended).splitlines()
    assert words in line and line.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpus=2",), "torchrun --nproc-per-node 2 scripts/train.py"),
        (("micro_batch=3",), "micro_batch=3 on 1 process(es) does not divide task.batch_size=100"),
        (("gpus=2", "nodes=51"), "more than the 100 examples of a batch"),
        (("micro_batch=0",), "micro_batch=0 must be a whole number >= 1, or null"),
        (("parallel=pipeline",), "choose one of ddp, fsdp"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path, arguments, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run(compose_config([*ARGUMENTS, f"runs_dir={tmp_path}", *arguments]))
    assert not list(tmp_path.iterdir())


def test_gradient_checkpointing_of_a_model_without_blocks_is_refused(tmp_path):
    with pytest.raises(UserError, match="task=grokking has none; set it to false"):
        run(compose_config([*ARGUMENTS, f"runs_dir={tmp_path}", "gradient_checkpointing=true"]))


def test_batch_statistics_over_less_than_the_global_batch_are_refused():
    cpu, model = torch.device("cpu"), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    plain = compose_config(["task=cifar100"])
    check_batch_norm(read_config(plain), model, Ranks(), cpu)
    check_batch_norm(read_config(plain), model, Ranks(0, 2), torch.device("cuda"))
    check_batch_norm(read_config(plain), model[0], Ranks(0, 2), cpu)
    with pytest.raises(UserError, match="on GPUs alone"):
        check_batch_norm(read_config(plain), model, Ranks(0, 2), cpu)
    with pytest.raises(UserError, match=r"micro_batch=8: .* of the whole batch"):
        check_batch_norm(read_config(compose_config(["task=cifar100", "micro_batch=8"])), model, Ranks(), cpu)
    check_parts(model, 2, Ranks(0, 2))
    with pytest.raises(UserError, match="last batch has 1 example"):
        check_parts(model, 1, Ranks(0, 2))


@pytest.mark.parametrize("count", [1, 3, 7, 24])
@pytest.mark.parametrize(("world", "micro_batch"), [(1, None), (1, 5), (2, None), (4, 2), (8, None)])
def test_every_example_is_in_one_piece_and_the_weighted_means_add_up_to_the_batch_s_mean(count, world, micro_batch):
    batch = (torch.arange(count, dtype=torch.float64), (torch.arange(count),))
    of_all = [micro_batches(batch, rank, world, micro_batch) for rank in range(world)]
    assert len({len(of_one) for of_one in of_all}) == 1
    flat = [piece for of_one in of_all for piece in of_one]
    assert torch.cat([values for (values, _), share in flat if share > 0]).tolist() == list(range(count))
    assert all(
        torch.equal(values.long(), numbers) and 1 <= len(values) <= (micro_batch or count)
        for (values, (numbers,)), _ in flat
    )
    assert sum(share * values.mean().item() for (values, _), share in flat) == pytest.approx((count - 1) / 2)


def test_the_processes_find_themselves_and_each_other_in_the_environment():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    step = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"}
    assert launched({}) == Launch(0, 1, 0)
    assert launched(torchrun) == launched(step | torchrun) == Launch(3, 4, 1)
    assert launched(step) == Launch(5, 8, 1, bound=True)
    assert launched(step | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}).world == 1  # a shell of salloc -n 8
    assert launched({key: value for key, value in step.items() if key != "SLURM_STEP_ID"}) == Launch()  # a batch script
    assert meeting_point(torchrun) == {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    two_nodes = step | {"SLURM_JOB_NODELIST": "gpu[08-09,12],big1", "SLURM_NNODES": "2"}
    assert meeting_point(two_nodes)["MASTER_ADDR"] == "gpu08"
    ports = {
        meeting_point(two_nodes | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": of_job})["MASTER_PORT"]
        for job in "78"
        for of_job in "01"
    }
    assert len(ports) == 4 and all(1024 < int(port) < 32768 for port in ports)
    assert [first_machine(names) for names in ("one", "one,two", "n[3,5-9]", "r[1-2]n[07-09]-ib,x")] == [
        "one",
        "one",
        "n3",
        "r1n07-ib",
    ]
