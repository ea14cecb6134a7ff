"""Sweeps on a real Slurm give the same results as on this machine, whatever happens to their jobs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, command, records, wait_until, write_fashion_mnist
from local_slurm import Cluster

from scripts.sweep.states import last_step

SWEEP = ("grokking", "task.model.width=32", "task.batch_size=64", "task.log_every_steps=8", "task.eval_every_steps=80")
JOBS = ("launcher=slurm", "launcher.cpus=1", "launcher.memory=1", "launcher.time=30", "launcher.grace_seconds=20")
TIMEOUT = 600
STEPS = 1200


def reproduce(cluster: Cluster, *arguments: str, seeds: str = "1,2,3") -> subprocess.CompletedProcess:
    return cluster.call(*command("reproduce.py", *SWEEP, f"seeds={seeds}", *arguments), timeout=TIMEOUT)


def start(cluster: Cluster, *arguments: str, seeds: str = "1,2,3") -> subprocess.Popen:
    return subprocess.Popen(
        command("reproduce.py", *SWEEP, f"seeds={seeds}", *arguments),
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tables(runs_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (runs_dir / "results" / "mini" / "grokking").iterdir()}


def bits(runs_dir: Path) -> dict[str, tuple]:
    """Return what no fault may change: final state, metrics and logs."""
    return {
        run: (r["state_sha256"], r["metrics"], r["files"], r["steps"], r["status"])
        for run, r in records(runs_dir).items()
    }


def running(cluster: Cluster, runs_dir: Path, but: set[str]) -> tuple[str, Path]:
    """Return job id and run folder of a job in the first half of its training, except the given ones."""
    found: list[tuple[str, Path]] = []

    def look() -> bool:
        for line in cluster.output("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%F %K %j").splitlines():
            job, index, name = line.split()
            job = f"{job}_{index}" if index.isdigit() else job  # a job that is submitted again may not be an array
            note = runs_dir / "slurm" / f"{name.rpartition('-')[2]}.json"
            if job not in but and note.exists():
                folder = (
                    runs_dir
                    / "grokking"
                    / json.loads(note.read_text())["jobs"][int(index) if index.isdigit() else 0][0]
                )
                if 0 < last_step(folder) < STEPS / 2:  # enough time is left for a fault
                    found.append((job, folder))
        return bool(found)

    wait_until(look, 120)
    but.add(found[0][0])
    return found[0]


def trained_in_pieces(folder: Path, checkpoint_every: int, last: int = STEPS) -> int:
    """Return the steps that all processes of a run trained together.

    Fail if one started at a step at which no other ended and no checkpoint was due."""
    steps, at = 0, 0
    history = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    for line in history:
        if "begin" in line:
            continue
        if "start" in line:
            assert line["start"] == at or line["start"] % checkpoint_every == 0
            at = line["start"]
        elif line["end"] is not None:  # None if it ended before its first step
            steps += line["end"] - at
            at = line["end"]
    assert [line for line in history if line == {"end": last}] == history[-1:]
    return steps


def test_a_cluster_and_this_machine_give_the_same_tables_and_skip_each_other_s_runs(cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert reproduce(cluster, f"runs_dir={here}", "num_steps=80", "jobs=2").returncode == 0
    on_cluster = (f"runs_dir={there}", "num_steps=80", *JOBS, "launcher.runs_per_job=3", "launcher.parallel=2")
    submitted = reproduce(cluster, *on_cluster)
    assert submitted.returncode == 0, submitted.stderr
    assert "when the runs have ended, the same command goes on" in submitted.stdout
    waited = reproduce(cluster, *on_cluster, "wait=true")
    assert waited.returncode == 0, waited.stderr
    assert "submitted" not in waited.stderr
    assert tables(there) == tables(here)
    assert bits(there) == bits(here)
    assert "6 runs, 6 done, 0 to do" in reproduce(cluster, f"runs_dir={there}", "num_steps=80").stdout
    assert "6 runs, 6 done, 0 to do" in reproduce(cluster, f"runs_dir={here}", "num_steps=80", *JOBS).stdout


@pytest.mark.weekly
def test_a_sweep_survives_everything_that_can_happen_to_its_jobs(cluster, tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    steps = f"num_steps={STEPS}"
    assert reproduce(cluster, f"runs_dir={undisturbed}", "jobs=2", steps, seeds="1,2,3,4,5,6").returncode == 0
    arguments = (
        f"runs_dir={disturbed}",
        *JOBS,
        steps,
        "checkpoint_every_steps=40",
        "launcher.partition=low",
        "launcher.parallel=3",
    )
    submitter = start(cluster, *arguments, "wait=true", seeds="1,2,3,4,5,6")
    touched: set[str] = set()

    job, _ = running(cluster, disturbed, touched)
    assert cluster.call("scancel", "--signal=USR2", f"{job}.0").returncode == 0

    job, folder = running(cluster, disturbed, touched)
    os.kill(int((folder / ".lock").read_text().split()[1]), signal.SIGKILL)  # the worker that trains

    submitter.kill()
    submitter.communicate()
    submitter = start(cluster, *arguments, "wait=true", seeds="1,2,3,4,5,6")

    job, folder = running(cluster, disturbed, touched)
    worker = int((folder / ".lock").read_text().split()[1])
    os.kill(
        int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL
    )  # the job's own process

    job, _ = running(cluster, disturbed, touched)
    assert cluster.call("scontrol", "requeue", job).returncode == 0

    cluster.kill_node("n1")
    cluster.start_node("n1")

    running(cluster, disturbed, touched)
    for node in ("n1", "n2"):
        assert (
            cluster.srun("--partition=high", f"--nodelist={node}", "--exclusive", "true", timeout=120).returncode == 0
        )

    said, _ = submitter.communicate(timeout=TIMEOUT)
    assert submitter.returncode == 0, said
    assert bits(disturbed) == bits(undisturbed)
    assert tables(disturbed) == tables(undisturbed)
    assert len(records(disturbed)) == 12
    for run in records(disturbed):
        assert trained_in_pieces(disturbed / "grokking" / run, 40) <= STEPS


def test_two_sweeps_submitted_at_once_queue_and_train_every_run_once(cluster, tmp_path):
    arguments = (f"runs_dir={tmp_path}", *JOBS, "num_steps=400", "checkpoint_every_steps=40")
    both = [start(cluster, *arguments) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0 or "another process is submitting runs of this folder" in said, said
    noted = [
        run
        for note in (tmp_path / "slurm").glob("*.json")
        for job in json.loads(note.read_text())["jobs"]
        for run in job
    ]
    assert len(noted) == len(set(noted)) == 6
    done = reproduce(cluster, *arguments, "wait=true")
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 6
    for run in records(tmp_path):
        history = (tmp_path / "grokking" / run / "starts.jsonl").read_text().splitlines()
        first, second, last = map(json.loads, history)
        assert "begin" in first and second["start"] == 0 and last == {"end": 400}


@pytest.mark.weekly
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_reported_and_the_sweep_finishes_once_there_is_room(cluster, tmp_path):
    small, undisturbed = tmp_path / "small", tmp_path / "undisturbed"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small)
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        arguments = (
            f"runs_dir={small}",
            *JOBS,
            "num_steps=400",
            "checkpoint_every_steps=40",
            "launcher.parallel=2",
            "wait=true",
        )
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        (small / "filler").write_bytes(bytes(free - 600_000))  # less space than the checkpoints of six runs
        full = reproduce(cluster, *arguments)
        assert full.returncode in (1, 2) and "Traceback" not in full.stderr, full.stderr
        # Either the submission itself or its jobs find no space.
        assert "no space left" in full.stderr or "MB are free there" in full.stderr, full.stderr
        assert not list(small.glob("grokking/*/.*.tmp"))
        (small / "filler").unlink()
        done = reproduce(cluster, *arguments)
        assert done.returncode == 0, done.stderr
        assert reproduce(cluster, f"runs_dir={undisturbed}", "jobs=2", "num_steps=400").returncode == 0
        assert bits(small) == bits(undisturbed)
        for run in records(small):
            assert trained_in_pieces(small / "grokking" / run, 40, last=400) <= 400 + 3 * 40
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_two_processes_under_srun_equal_one(cluster, tmp_path):
    run = (
        "task=grokking",
        "task.model.width=32",
        "task.batch_size=64",
        "num_steps=50",
        "task.log_every_steps=1",
        "quiet=true",
    )
    alone = cluster.call(*command("train.py", *run, f"runs_dir={tmp_path / 'one'}"), timeout=120)
    assert alone.returncode == 0, alone.stderr
    two = cluster.srun(
        "-n2", "--cpus-per-task=1", *command("train.py", *run, f"runs_dir={tmp_path / 'two'}", "gpus=2"), timeout=180
    )
    assert two.returncode == 0, two.stderr
    assert len(curve(tmp_path / "one")) == 50
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), abs=1e-5, rel=0)


def test_runs_with_two_processes_are_submitted_as_jobs_with_two_tasks(cluster, tmp_path):
    common = (
        "num_steps=24",
        "lr=1e-3",
        f"runs_dir={tmp_path}",
        *JOBS,
        "launcher.runs_per_job=6",
        "gpus=2",
        "wait=true",
    )
    done = reproduce(cluster, *common)
    assert done.returncode == 0, done.stderr
    assert {(r["status"], r["hardware"]["processes"]) for r in records(tmp_path).values()} == {("finished", 2)}


def test_hydra_s_own_sweep_runs_on_the_cluster_and_resumes_after_preemption(cluster, tmp_path):
    run = (
        "-m",
        "task=grokking",
        "task.model.width=32",
        "task.batch_size=64",
        "num_steps=600",
        "task.log_every_steps=8",
        "seed=1,2",
    )
    sweep = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *run, *JOBS, f"runs_dir={tmp_path}", "quiet=true"],
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(lambda: sum(log.stat().st_size > 0 for log in tmp_path.glob("*/*/metrics.jsonl")) == 2, 120)
    for job in cluster.output("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%F_%K").split():
        cluster.call("scancel", "--signal=USR2", f"{job}.0")
    said, _ = sweep.communicate(timeout=TIMEOUT)
    assert sweep.returncode == 0, said
    assert [r["status"] for r in records(tmp_path).values()] == ["finished"] * 2
    assert any(p.read_text().count('"start"') > 1 for p in tmp_path.glob("*/*/starts.jsonl"))
    assert (tmp_path / "slurm").stat().st_mode & 0o777 == 0o700  # the jobs are pickles


def submitted(cluster: Cluster, *arguments: str, seeds: str = "1,2,3") -> tuple[str, str, str]:
    """Submit jobs that Slurm holds. Return the last job's script, what Slurm says of the job, and the command's output."""
    done = reproduce(cluster, "num_steps=8", *JOBS, "launcher.sbatch.hold=true", *arguments, seeds=seeds)
    try:
        assert done.returncode == 0, done.stderr
        job = cluster.output("squeue", "-h", "-r", "-S", "-i", "-o", "%A").splitlines()[0]
        said = cluster.output("scontrol", "show", "job", "-d", job)
        return cluster.output("scontrol", "write", "batch_script", job, "-"), said, done.stderr
    finally:
        cluster.output("scancel", "--user", str(os.getuid()))


def test_every_option_of_sbatch_reaches_slurm(cluster, tmp_path):
    script, job, _ = submitted(
        cluster,
        f"runs_dir={tmp_path}",
        "launcher.gpus=2",
        "launcher.time=1-12:00",
        "launcher.exclude=[n2]",
        "launcher.mail_type=FAIL",
        "launcher.mail_user=me@example.org",
        "launcher.comment=mine",
        "launcher.dependency=singleton",
        "launcher.sbatch.nice=7",
        "launcher.sbatch.licenses=null",
        'launcher.srun=["--gpu-bind=none"]',
    )
    assert "TimeLimit=1-12:00:00" in job and "ExcNodeList=n2" in job and "Nice=7" in job and "Comment=mine" in job
    assert "Dependency=singleton" in job and "gres:gpu:2" in job and "MailUser=me@example.org" in job
    assert "--cpus-per-task=1 --gpu-bind=none" in script and "wckey" not in script and "licenses" not in script


def test_setup_lines_variables_and_a_container_surround_the_training(cluster, tmp_path):
    """The container is a program that notes its variables and starts the command that follows."""
    container = tmp_path / "container"
    container.write_text(f"""#!/bin/bash
echo "$OF_SETUP $OF_ENV $SLURM_CPUS_PER_TASK" >{tmp_path}/seen
exec "$@"
""")
    container.chmod(0o755)
    settings = (
        'launcher.setup=["export OF_SETUP=loaded"]',
        'launcher.env.OF_ENV="a b"',
        f"launcher.container={container}",
    )
    arguments = ("num_steps=8", f"runs_dir={tmp_path}", *JOBS, "launcher.runs_per_job=6", *settings, "wait=true")
    done = reproduce(cluster, *arguments, "launcher.cpus=3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == "loaded a b 3\n"
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"] * 6


def test_a_setup_line_that_fails_ends_the_job_and_is_named(cluster, tmp_path):
    settings = ("launcher.setup=[module load nothing]", "launcher.runs_per_job=6")
    assert reproduce(cluster, f"runs_dir={tmp_path}", "num_steps=8", *JOBS, *settings).returncode == 0
    logs = tmp_path / "slurm" / "jobs"
    wait_until(lambda: not cluster.output("squeue", "-h"))
    assert "this line of launcher.setup failed: module load nothing" in "".join(
        path.read_text() for path in logs.glob("*.out")
    )
    assert not records(tmp_path)


def test_a_run_on_two_gpus_gets_two_tasks_and_two_gpus_from_train_m(cluster, tmp_path):
    run = ("task=grokking", "task.model.width=32", "task.batch_size=64", "num_steps=24", "quiet=true", "seed=1,2")
    # The GPUs are pretended, so the processes train on CPUs, and launcher.gpus=1 asks for GPUs.
    done = cluster.call(
        *command("train.py", "-m", *run, *JOBS, "launcher.gpus=1", "gpus=2", f"runs_dir={tmp_path}",
                 f'launcher.setup=["echo $SLURM_GPUS_ON_NODE $SLURM_NTASKS >{tmp_path}/asked"]'), timeout=TIMEOUT
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "2 2\n"
    ended = records(tmp_path)
    assert [(r["status"], r["hardware"]["processes"]) for r in ended.values()] == [("finished", 2)] * 2
    assert done.stdout.splitlines()[-1] == "2 runs: 2 done"
    again = cluster.call(*command("train.py", "-m", *run, *JOBS, "gpus=2", f"runs_dir={tmp_path}"), timeout=TIMEOUT)
    assert again.returncode == 0 and "submitted" not in again.stderr, again.stderr


def test_a_run_over_two_nodes_with_two_processes_each_equals_one_process(cluster, tmp_path):
    run = ("task=grokking", "task.model.width=32", "task.batch_size=64", "num_steps=50", "task.log_every_steps=1")
    alone = cluster.call(*command("train.py", *run, "quiet=true", f"runs_dir={tmp_path / 'one'}"), timeout=TIMEOUT)
    assert alone.returncode == 0, alone.stderr
    # The two nodes are one machine, whose address Slurm doesn't know.
    setup = f'launcher.setup=["echo $SLURM_JOB_NUM_NODES $SLURM_NTASKS >{tmp_path}/asked"]'
    nodes = ("nodes=2", "gpus=2", "launcher.env.MASTER_ADDR=127.0.0.1", "launcher.env.MASTER_PORT=29655", setup)
    four = ("train.py", "-m", *run, "quiet=true", *JOBS, *nodes, f"runs_dir={tmp_path / 'four'}", "seed=1")
    done = cluster.call(*command(*four), timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "2 4\n"
    (record,) = records(tmp_path / "four").values()
    assert (record["status"], record["hardware"]["processes"]) == ("finished", 4)
    assert curve(tmp_path / "four") == pytest.approx(curve(tmp_path / "one"), abs=1e-5, rel=0)


def curve(runs_dir):
    (log,) = runs_dir.glob("*/*/metrics.jsonl")
    return [line["loss"] for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]


def test_more_jobs_than_an_array_may_have_are_submitted_as_several(cluster, tmp_path):
    """The local Slurm takes arrays of 8 jobs. The key asks for fewer."""
    *_, said = submitted(cluster, f"runs_dir={tmp_path / 'cluster'}", seeds="1,2,3,4,5")
    assert "10 of 10 runs submitted as " in said and said.partition("submitted as ")[2].count(", ") == 1
    *_, said = submitted(cluster, f"runs_dir={tmp_path / 'key'}", "launcher.max_array_size=3", seeds="1,2,3,4,5")
    assert said.partition("submitted as ")[2].partition(";")[0].count(", ") == 3
    sizes = sorted(len(json.loads(note.read_text())["jobs"]) for note in (tmp_path / "key" / "slurm").glob("*.json"))
    assert sizes == [1, 3, 3, 3]


def test_a_limit_on_jobs_is_reported_and_a_command_that_waits_trains_all_runs(cluster, tmp_path):
    """The quality of service `few` takes 4 jobs of a user."""
    arguments = (f"runs_dir={tmp_path}", "num_steps=8", *JOBS, "launcher.qos=few")
    full = reproduce(cluster, *arguments)
    assert full.returncode == 2 and "Slurm accepted 4 of 6 jobs" in full.stderr, full.stderr
    assert "4 jobs of yours are in its queue" in full.stderr and "launcher.runs_per_job=2" in full.stderr
    done = reproduce(cluster, *arguments, "wait=true")
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in records(tmp_path).values()] == ["finished"] * 6


def test_runs_wait_for_their_data_and_read_it_from_the_node_s_own_disk(cluster, tmp_path):
    """A job on CPUs prepares the data, which is there already. The runs read copies of it."""
    data = write_fashion_mnist(tmp_path / "data")
    run = ("task=cifar100", "scale=mini", "num_steps=2", "quiet=true", "task.data.train_size=200", "seed=1,2")
    node = (f'launcher.scratch="{tmp_path}/$SLURMD_NODENAME"', "launcher.stage=[FashionMNIST]", "launcher.prepare=job")
    done = cluster.call(
        *command("train.py", "-m", *run, *JOBS, *node, f"runs_dir={tmp_path / 'runs'}", f"data_dir={data}"),
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["status"] for record in records(tmp_path / "runs").values()] == ["finished"] * 2
    assert list(tmp_path.glob("n?/cpr-data-*/FashionMNIST/raw/train-images-idx3-ubyte"))
    assert any("FashionMNIST: ready in" in log.read_text() for log in (tmp_path / "runs").glob("slurm/jobs/*.out"))


def test_runs_whose_data_cannot_be_prepared_are_not_started(cluster, tmp_path):
    blocked = tmp_path / "data"
    blocked.write_text("a file where the folder should be")
    arguments = (f"runs_dir={tmp_path / 'runs'}", f"data_dir={blocked}", "launcher.prepare=job", *JOBS)
    done = cluster.call(
        *command("reproduce.py", "figure2", "scale=mini", "seeds=1", "launcher.runs_per_job=40", *arguments),
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not cluster.output("squeue", "-h"), 120)
    assert not records(tmp_path / "runs")
    assert any("error: " in log.read_text() for log in (tmp_path / "runs").glob("slurm/jobs/*.out"))


@pytest.mark.weekly
def test_a_run_longer_than_its_time_limit_is_trained_by_a_chain_of_jobs(cluster, tmp_path):
    """Each job has two minutes, so the run is checkpointed and queued again until it has ended."""
    run = ("task=grokking", "task.model.width=32", "task.batch_size=64", "quiet=true", "num_steps=100000")
    short = ("launcher=slurm", "launcher.cpus=1", "launcher.memory=1", "launcher.time=2", "launcher.grace_seconds=60")
    sweep = subprocess.Popen(
        command("train.py", *run, *short, f"runs_dir={tmp_path}"),
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    def starts() -> int:
        return sum(path.read_text().count('"start"') for path in tmp_path.glob("*/*/starts.jsonl"))

    try:
        wait_until(lambda: starts() >= 5, 1500)
        (folder,) = tmp_path.glob("grokking/*")
        history = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
        at = 0
        for line in history:
            if "start" in line:
                assert line["start"] == at  # where the job before ended
            elif "end" in line:
                at = line["end"]
        assert at > 0
    finally:
        sweep.kill()
        cluster.output("scancel", "--user", str(os.getuid()))
