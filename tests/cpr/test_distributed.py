"""Sharded training equals unsharded training: FSDP2, tensor parallelism and resharded checkpoints."""

import contextlib
import copy
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.optim import Optimizer

import cpr.distributed
from cpr import CPR, AdamCPR, regularized_groups

# Every fork has these imports, and none of them starts a thread.
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "cpr", "pytest"])

STEPS = 30
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "AdamCPR": lambda groups, **options: AdamCPR(groups, lr=1e-2, **options),
    "AdamCPR, eager": lambda groups, **options: AdamCPR(groups, lr=1e-2, kernel="eager", **options),
    "CPR around SGD": lambda groups, **options: CPR(torch.optim.SGD(groups, lr=1e-2, momentum=0.9), **options),
}
BOUNDS = {
    "WS": {"kappa_init_method": "warm_start", "kappa_init_param": 5},
    "IP": {"kappa_init_method": "inflection_point", "reg_step_size": 2},
    "std": {"kappa_init_method": "dependent", "kappa_init_param": 1.02, "reg_function": "std"},
    "after": {"kappa_init_method": "dependent", "kappa_init_param": 1.02, "evaluate_at": "after"},
}
# SGD's matrices do not grow at these rates, so their bounds lie below the initial sizes.
SMALLER = {
    "smaller": {"kappa_init_method": "dependent", "kappa_init_param": 0.5, "kappa_update": 0.1},
    "smaller, after": {
        "kappa_init_method": "dependent",
        "kappa_init_param": 0.5,
        "kappa_update": 0.1,
        "evaluate_at": "after",
    },
}


def model() -> nn.Sequential:
    """Return a model whose rows do not divide evenly: seven rows, and one row that leaves ranks empty."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), 5 * torch.randn(16, 1, generator=generator)


def optimizer_of(net: nn.Module, bound: str, name: str = "AdamCPR") -> Optimizer:
    return OPTIMIZERS[name](regularized_groups(net), **(BOUNDS | SMALLER)[bound])


def backward(net: nn.Module, optimizer: Optimizer, step: int) -> None:
    inputs, targets = batch(step)
    optimizer.zero_grad()
    ((net(inputs) - targets) ** 2).mean().backward()


def train(net: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        backward(net, optimizer, step)
        optimizer.step()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_same_as_alone(net: nn.Module, optimizer: Optimizer, bound: str, name: str = "AdamCPR") -> None:
    """Check that parameters equal those of one process to 1e-6.

    λ and κ must be equal on all ranks and must act."""
    alone = model()
    reference = optimizer_of(alone, bound, name)
    train(alone, reference, range(STEPS))
    pairs = list(zip(net.parameters(), alone.parameters(), strict=True))
    for sharded, single in pairs:
        assert (whole(sharded.detach()) - single).abs().max() <= 1e-6
    largest = 0.0
    for sharded, single in pairs:
        for name in ("lagmul", "kappa"):
            if name in reference.state[single]:
                mine = optimizer.state[sharded][name].clone()
                assert mine.item() == pytest.approx(reference.state[single][name].item(), rel=1e-4, abs=1e-6)
                everyone = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
                dist.all_gather(everyone, mine)
                assert all(torch.equal(other, mine) for other in everyone)
                largest = max(largest, mine.item() if name == "lagmul" else 0.0)
    assert largest > 0


def fsdp() -> nn.Module:
    net = model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def tensor_parallel() -> nn.Module:
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    return parallelize_module(model(), init_device_mesh("cpu", (dist.get_world_size(),)), plan)


def two_dimensional() -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    net = parallelize_module(model(), mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for layer in (net[0], net[2], net[4]):
        fully_shard(layer, mesh=mesh["data"])
    return net


def replicated() -> nn.Module:
    return nn.parallel.DistributedDataParallel(model())


def every_way(rank: int, world: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for shard in (replicated, fsdp, tensor_parallel, *([two_dimensional] if world == 4 else [])):
        for bound, name in (
            *((bound, "AdamCPR") for bound in BOUNDS),
            *((bound, "CPR around SGD") for bound in SMALLER),
        ):
            net = shard()
            optimizer = optimizer_of(net, bound, name)
            train(net, optimizer, range(STEPS))
            assert_same_as_alone(net, optimizer, bound, name)
    if world == 4:
        net = two_dimensional()  # the last layer is on two of the ranks, the others on all four
        assert_each_step_starts(2, net, optimizer_of(net, "WS"))
        net = fsdp()
        optimizer = optimizer_of(net, "WS")
        train(net, optimizer, range(10))
        weights, state = get_state_dict(net, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
    leave()


def reshard(rank: int, world: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    net = fsdp()
    optimizer = optimizer_of(net, "WS")
    train(net, optimizer, range(100, 101))  # makes state with the right names and shapes but other values
    weights, state = get_state_dict(net, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=copy.deepcopy(state))
    train(net, optimizer, range(10, STEPS))
    assert_same_as_alone(net, optimizer, "WS")
    leave()


class Watched:
    """A collective that records whether it was waited for."""

    def __init__(self, work: Any) -> None:
        self.work, self.waited = work, False

    def wait(self) -> None:
        self.work.wait()
        self.waited = True


@contextlib.contextmanager
def watch() -> Iterator[list[Watched]]:
    """Yield the list of all-reduces that are started inside."""
    started: list[Watched] = []
    original = dist.all_reduce

    def all_reduce(*arguments: Any, **options: Any) -> Watched:
        started.append(Watched(original(*arguments, **options)))
        return started[-1]

    dist.all_reduce = all_reduce
    try:
        yield started
    finally:
        dist.all_reduce = original


def three_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Return groups of one matrix each with different bounds, so that each matrix has its own pack."""
    matrices, others = regularized_groups(net)
    return [
        *({"params": [p], "regularize": True, "kappa_update": 0.5 + n} for n, p in enumerate(matrices["params"])),
        others,
    ]


def assert_each_step_starts(count: int, net: nn.Module, optimizer: Optimizer, overlapped: bool = True) -> None:
    """Check the number of collectives per step, and which step waits for them.

    The next step waits for those that overlap, and the same step for the others. The first step also
    has those of R(θ_0)."""
    before: list[Watched] = []
    for step in range(4):
        backward(net, optimizer, step)
        with watch() as started:
            optimizer.step()
        assert len(started) == (count if step else 2 * count)
        assert [work.waited for work in started[-count:]] == [not overlapped] * count
        assert all(work.waited for work in (*before, *started[:-count]))
        before = started


def assert_no_collective_is_left_behind(net: nn.Module) -> None:
    """Check this when the set of gradients changes between steps, and when the optimizer is deleted."""
    gc.collect()
    assert not cpr.distributed._in_flight
    optimizer = optimizer_of(net, "WS")
    for step in range(10):
        backward(net, optimizer, step)
        if step % 2:
            next(net.parameters()).grad = None
        optimizer.step()
        assert len(cpr.distributed._in_flight) == 1
    optimizer.load_state_dict(optimizer.state_dict())
    assert not cpr.distributed._in_flight
    train(net, optimizer, range(1))
    assert len(cpr.distributed._in_flight) == 1
    del optimizer
    gc.collect()
    assert not cpr.distributed._in_flight


def collectives(rank: int, world: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for shard in (
        fsdp,
        two_dimensional,
    ):  # with two processes, the whole mesh and its first dimension have the same ranks
        for make in OPTIMIZERS.values():
            for bound in ("WS", "after"):
                net = shard()
                assert_each_step_starts(1, net, make(three_groups(net), **BOUNDS[bound]), overlapped=bound != "after")
    assert_no_collective_is_left_behind(fsdp())
    leave()


def half_of_the_ranks(rank: int, world: int, port: int) -> None:
    """Train a matrix per half of the ranks, sharded both ways over a 2 x 1 mesh, as in pipeline stages."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (2, 2, world // 4), mesh_dim_names=("stage", "data", "tensor"))["data", "tensor"]
    start = torch.arange(1.0, 13).reshape(3, 4) * (1 + rank // 2)
    theta = nn.Parameter(distribute_tensor(start, mesh, [Shard(0), Shard(1)]))
    optimizer = AdamCPR(
        [{"params": [theta], "regularize": True}], lr=0, kappa_init_method="dependent", kappa_init_param=1
    )
    for _ in range(2):
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
    assert optimizer.state[theta]["kappa"].item() == pytest.approx(start.square().mean().item())
    leave()


def leave() -> None:
    """Exit without Python's finalization. A thread of gloo may abort the process in it (pytorch issue 190489)."""
    dist.barrier()
    os._exit(0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(function: Callable[..., None], arguments: tuple, nprocs: int) -> None:
    """Run a function on each rank, in forks of a process that has imported torch once."""
    multiprocessing.start_processes(function, arguments, nprocs, start_method="forkserver")


def test_sharding_over_two_processes_gives_the_same_as_one_process(tmp_path):
    start(every_way, (2, free_port(), tmp_path), nprocs=2)


@pytest.mark.weekly
def test_sharding_over_four_processes_gives_the_same_and_two_can_resume_it(tmp_path):
    start(every_way, (4, free_port(), tmp_path), nprocs=4)
    start(reshard, (2, free_port(), tmp_path), nprocs=2)


def test_a_step_starts_one_collective_for_all_groups_and_the_next_step_waits_for_it():
    start(collectives, (2, free_port()), nprocs=2)


def test_a_matrix_sharded_in_both_directions_over_half_of_the_ranks_is_bounded_as_a_whole():
    start(half_of_the_ranks, (4, free_port()), nprocs=4)


@pytest.mark.weekly
def test_two_processes_that_share_every_matrix_pass_the_suite_of_every_path():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    suite = Path(__file__).with_name("test_every_path.py")
    processes = [
        subprocess.Popen(
            # If pytest captured the output, gloo's message at the end of a process would be lost.
            [
                sys.executable,
                "-m",
                "pytest",
                "-xq",
                "--capture=sys",
                "-p",
                "no:cacheprovider",
                "-k",
                "dtensor",
                str(suite),
            ],
            env=environment | {"RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert all(" passed" in output for output in outputs)
