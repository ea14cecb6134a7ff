"""The processes of one run: they meet, they agree, and a failure in one of them ends all of them.

Every process computes every global batch and trains on its own part of it. Only the first one (rank
0) prints and writes.
"""

import atexit
import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cpr.distributed import let_gloo_finish
from tasks.engine.config import Config
from tasks.engine.device import pick_device
from tasks.engine.errors import UserError
from tasks.engine.launch import Launch, launched, meeting_point


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of processes. A single process communicates with nobody.

    `group` is the process group for tensors on the device.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that all processes leave in the same way.

        In the block, no process may wait for another after something that can fail.

        Raises:
            Exception: whatever the block raised in this process.
            UserError: the block failed only in other processes. The message is that of the first of
                them.
        """
        if self.world == 1:
            yield
            return
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        messages: list[str | None] = [None] * self.world
        dist.all_gather_object(messages, None if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure
        for rank, message in enumerate(messages):
            if message is not None:
                raise UserError(f"process {rank} of {self.world}: {message}")

    def from_first(self, value: Any) -> Any:
        """Return the first process's `value` in every process."""
        if self.world == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def of_all(self, value: Any) -> list[Any]:
        """Return every process's `value`, by rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def largest(self, *numbers: int) -> list[int]:
        """Return the largest of each number over all processes, without waiting for the device."""
        if self.world == 1:
            return list(numbers)
        tensor = torch.tensor(numbers)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over all processes, and return it."""
        if self.world > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor


def join(cfg: Config) -> tuple[Ranks, torch.device]:
    """Return this process's place among those of the run `cfg`, and its device.

    Raises:
        UserError: torchrun or srun started another number of processes than nodes x gpus, or the
            device does not exist.
    """
    launch, asked = launched(), cfg.nodes * cfg.gpus
    if launch.world != asked:
        raise UserError(
            f"nodes={cfg.nodes} x gpus={cfg.gpus} need {asked} process(es), and {launch.world} started; start them with "
            f"torchrun --nproc-per-node {cfg.gpus} scripts/train.py, or srun"
        )
    if launch.world == 1:
        return Ranks(), pick_device(cfg.device)
    _meet(launch)
    alone = Ranks(launch.rank, launch.world)
    with alone.together():
        device = _own_device(cfg.device, launch)
    return Ranks(launch.rank, launch.world, _group("nccl" if device.type == "cuda" else "gloo")), device


def _meet(launch: Launch) -> None:
    """Create the gloo process group for values and flags on the host.

    It lasts as long as its process, over all runs of a sweep.
    """
    if dist.is_initialized():
        return
    os.environ.update(meeting_point())
    dist.init_process_group("gloo", rank=launch.rank, world_size=launch.world)
    atexit.register(_part)


def _part() -> None:
    dist.destroy_process_group()
    let_gloo_finish()


@functools.cache
def _group(backend: str) -> Any:
    return dist.new_group(backend=backend)


def _own_device(name: str, launch: Launch) -> torch.device:
    device = pick_device(name)
    if device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(f"device={name} is one GPU; with several processes say device=cuda, and each takes its own")
    # Slurm may let each process see only its own GPU.
    index = 0 if launch.bound and torch.cuda.device_count() == 1 else launch.local_rank
    device = pick_device(f"cuda:{index}")
    torch.cuda.set_device(device)
    return device
