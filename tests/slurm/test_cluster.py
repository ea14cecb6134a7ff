"""The local cluster treats jobs like a real one. The tests of sweeps rely on it."""

import os
import signal

from commands import wait_until

HOLD = "sleep 300"  # longer than any test


def lines(path):
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_srun_runs_a_command_on_each_node_and_returns_its_exit_code(cluster):
    done = cluster.srun("--nodes=2", "printenv", "SLURMD_NODENAME")
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["n1", "n2"])
    assert cluster.srun("sh", "-c", "exit 7").returncode == 7


def test_an_array_runs_no_more_tasks_at_once_than_its_limit(cluster, tmp_path):
    task = (
        "mkdir -p now; touch now/$SLURM_ARRAY_TASK_ID; ls now | wc -l >>counts; sleep 0.5; rm now/$SLURM_ARRAY_TASK_ID"
    )
    job = cluster.sbatch(task, tmp_path, "--array=0-4%2")
    assert cluster.wait_for(job, "COMPLETED") == "COMPLETED"
    counts = list(map(int, lines(tmp_path / "counts")))
    assert len(counts) == 5
    assert max(counts) <= 2


def test_jobs_on_one_node_see_different_gpus(cluster, tmp_path):
    # Each job waits for the other three, so all four run at once.
    job = cluster.sbatch(
        "echo $CUDA_VISIBLE_DEVICES >>gpus; until [ $(wc -l <gpus) = 4 ]; do sleep 0.1; done",
        tmp_path,
        "--array=0-3",
        "--nodelist=n1",
        "--gpus=2",
    )
    cluster.wait_for(job, "COMPLETED")
    assert sorted(lines(tmp_path / "gpus")) == ["0,1", "2,3", "4,5", "6,7"]


def test_a_signal_reaches_the_process_of_a_step(cluster, tmp_path):
    job = cluster.sbatch(f"srun bash -c 'trap \"echo USR2 >got; exit\" USR2; touch ready; {HOLD} & wait'", tmp_path)
    wait_until((tmp_path / "ready").exists)
    assert cluster.call("scancel", "--signal=USR2", job).returncode == 0
    cluster.wait_for(job, "COMPLETED")
    assert lines(tmp_path / "got") == ["USR2"]


def test_a_job_of_high_evicts_one_of_low_which_gets_a_signal_and_is_queued_again(cluster, tmp_path):
    process = "trap 'echo USR2 >>log' USR2; trap 'echo TERM >>log; exit' TERM; echo ready >>log; while :; do sleep 1 & wait; done"
    (tmp_path / "process.sh").write_text(process)
    first_time = '[ -z "$SLURM_RESTART_COUNT" ] || { echo restart $SLURM_RESTART_COUNT >>log; exit; }'
    evicted = cluster.sbatch(
        f"{first_time}; srun bash process.sh",
        tmp_path,
        "--partition=low",
        "--nodelist=n1",
        "--gpus=8",
        "--signal=USR2@10",
    )
    wait_until(lambda: lines(tmp_path / "log") == ["ready"])
    assert cluster.srun("--partition=high", "--nodelist=n1", "--gpus=1", "true").returncode == 0
    cluster.wait_for(evicted, "COMPLETED")
    assert lines(tmp_path / "log") == ["ready", "USR2", "TERM", "restart 1"]
    assert cluster.output("sacct", "-XnPD", "-j", evicted, "--format=State").split() == ["PREEMPTED", "COMPLETED"]


def test_a_job_whose_process_is_killed_has_failed(cluster, tmp_path):
    job = cluster.sbatch(f"echo $$ >pid; exec {HOLD}", tmp_path)
    wait_until(lambda: len(lines(tmp_path / "pid")) == 1)
    os.kill(int(lines(tmp_path / "pid")[0]), signal.SIGKILL)
    assert cluster.wait_for(job, {"FAILED", "COMPLETED"}) == "FAILED"


def test_a_job_survives_its_slurmd(cluster, tmp_path):
    job = cluster.sbatch("touch started; until [ -e end ]; do sleep 0.1; done", tmp_path, "--nodelist=n2")
    wait_until((tmp_path / "started").exists)
    cluster.kill_node("n2")
    cluster.start_node("n2")
    assert cluster.srun("--nodelist=n2", "true").returncode == 0
    (tmp_path / "end").touch()
    assert cluster.wait_for(job, {"COMPLETED", "FAILED", "NODE_FAIL"}) == "COMPLETED"


def test_a_job_that_dies_with_its_node_is_queued_again(cluster, tmp_path):
    job = cluster.sbatch(
        f"echo restart ${{SLURM_RESTART_COUNT-none}} >>log; [ $SLURM_RESTART_COUNT ] || {HOLD}",
        tmp_path,
        "--nodelist=n2",
    )
    wait_until(lambda: lines(tmp_path / "log") == ["restart none"])
    cluster.kill_node("n2", with_jobs=True)
    cluster.start_node("n2")
    cluster.wait_for(job, "COMPLETED")
    assert lines(tmp_path / "log") == ["restart none", "restart 1"]
