"""Sharded training equals unsharded training: gloo processes, FSDP2 and tensor-parallel shards, checkpoints that reshard."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from cpr import AdamCPR

STEPS = 30
BOUNDS = {
    "WS": {"kappa_init_method": "warm_start", "kappa_init_param": 5},
    "IP": {"kappa_init_method": "inflection_point", "reg_step_size": 2},
    "std": {"kappa_init_method": "dependent", "kappa_init_param": 1.02, "reg_function": "std"},
    "after": {"kappa_init_method": "dependent", "kappa_init_param": 1.02, "evaluate_at": "after"},
}


def model() -> nn.Sequential:
    """Seven rows do not divide evenly over ranks, and one row leaves some of them without any."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), 5 * torch.randn(16, 1, generator=generator)


def train(net: nn.Module, optimizer: AdamCPR, steps: range) -> None:
    for step in steps:
        inputs, targets = batch(step)
        optimizer.zero_grad()
        ((net(inputs) - targets) ** 2).mean().backward()
        optimizer.step()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_same_as_alone(net: nn.Module, optimizer: AdamCPR, bound: str) -> None:
    """The parameters to 1e-6 those of one process; λ and κ the same on all ranks, and not without effect."""
    alone = model()
    reference = AdamCPR(alone, lr=1e-2, **BOUNDS[bound])
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
        for bound in BOUNDS:
            net = shard()
            optimizer = AdamCPR(net, lr=1e-2, **BOUNDS[bound])
            train(net, optimizer, range(STEPS))
            assert_same_as_alone(net, optimizer, bound)
    if world == 4:
        net = fsdp()
        optimizer = AdamCPR(net, lr=1e-2, **BOUNDS["WS"])
        train(net, optimizer, range(10))
        weights, state = get_state_dict(net, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
    leave()


def reshard(rank: int, world: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    net = fsdp()
    optimizer = AdamCPR(net, lr=1e-2, **BOUNDS["WS"])
    train(net, optimizer, range(100, 101))  # state of the right names and shapes, and other values
    weights, state = get_state_dict(net, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=copy.deepcopy(state))
    train(net, optimizer, range(10, STEPS))
    assert_same_as_alone(net, optimizer, "WS")
    leave()


def leave() -> None:
    """Without Python's finalization, during which a thread of gloo may abort the process (pytorch issue 190489)."""
    dist.barrier()
    os._exit(0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_sharded_over_two_processes_is_the_same_as_alone(tmp_path):
    multiprocessing.spawn(every_way, (2, free_port(), tmp_path), nprocs=2)


def test_sharded_over_four_processes_is_the_same_and_its_checkpoint_goes_on_with_two(tmp_path):
    multiprocessing.spawn(every_way, (4, free_port(), tmp_path), nprocs=4)
    multiprocessing.spawn(reshard, (2, free_port(), tmp_path), nprocs=2)


def test_two_processes_that_share_every_matrix_pass_the_suite_of_every_path():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    suite = Path(__file__).with_name("test_every_path.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", "-k", "dtensor", str(suite)],
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
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(" passed" in output for output in outputs)
