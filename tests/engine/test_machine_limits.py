"""File systems without locks, and too little room for the processes that read images, are one line."""

import errno
import fcntl
import os
import re
import resource
import shutil
import subprocess

import pytest
import torch
from commands import ENVIRONMENT, command, is_one_line, write_fashion_mnist
from test_failures import config
from torch.utils.data import Dataset

from tasks.cifar100c import corrupt
from tasks.engine import files, kept
from tasks.engine.errors import UserError
from tasks.engine.loading import loader
from tasks.engine.records import run_folder
from tasks.engine.run import run
from tasks.segmentation import raw

CPU = torch.device("cpu")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, code):
    def flock(file, kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    cfg = config(tmp_path)
    said = re.escape(f"cannot be locked ({os.strerror(code)})") + ".* file system with working flock for runs_dir"
    with pytest.raises(UserError, match=f"^{run_folder(cfg)}/.lock {said}") as refused:
        run(cfg)
    assert "\n" not in str(refused.value)
    assert not files.is_held(run_folder(cfg))
    with pytest.raises(UserError, match=said), raw.locked(tmp_path / "segmentation"):
        pass
    with pytest.raises(UserError, match=said), files.one_at_a_time(tmp_path / "a.lock"):
        pass


def test_every_lock_of_a_file_goes_through_one_place():
    assert not any(hasattr(module, "fcntl") for module in (corrupt, kept, raw))


def test_two_processes_take_turns(tmp_path):
    with files.one_at_a_time(tmp_path / "lock"), open(tmp_path / "lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_small_shared_memory_is_one_line(tmp_path):
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root to mount a small /dev/shm")
    write_fashion_mnist(tmp_path)
    keys = ("task=imagenet", "scale=mini", "device=cpu", "quiet=true", "num_steps=1", "regularizer=adamw")
    more = (
        "task.data.train_size=40",
        "task.data.val_size=10",
        "loader_workers=2",
        f"data_dir={tmp_path}",
        f"runs_dir={tmp_path / 'runs'}",
    )
    mounted = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k none /dev/shm || exit 99; exec "$@"', "sh"]
    line = [*mounted, *command("train.py", *keys, *more)]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode == 99:
        pytest.skip("this machine can't mount a small /dev/shm")
    assert done.returncode == 2
    is_one_line(done, "loader_workers=2 need more shared memory than /dev/shm has", "or set loader_workers=0")


class Killed(Dataset):
    """Examples whose reader is killed, as the kernel's memory killer does."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), 9)


def test_a_worker_that_is_killed_is_out_of_memory():
    with pytest.raises(MemoryError, match=r"one of loader_workers=1 was killed"):
        next(loader(Killed(), 1, CPU, batch_size=2))


class Many(Dataset):
    """Examples of many tensors each, which worker processes send as open files."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return [torch.zeros(1) for _ in range(100)]


def test_too_few_open_files_are_one_line():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    batches = loader(Many(), 1, CPU, batch_size=1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    try:
        with pytest.raises(
            UserError, match=r"^loader_workers=1 need more open files than the limit allows .*ulimit -n"
        ):
            kept_open = list(batches)  # noqa: F841
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
