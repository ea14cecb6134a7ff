"""Run a CPR step on any path through one function: the reference, torch's operations, C++, Triton, shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from cpr import AdamCPR
from cpr.reference import Reference

PATHS = ("reference", "eager", "cpu", "triton", "dtensor")
OPTIMIZERS = PATHS[1:]
Gradients = Sequence[Sequence[Tensor | None]]  # of every step, of every matrix


@dataclass(frozen=True)
class End:
    """A matrix after training. `bound` is κ, or None if it is not set."""

    theta: Tensor
    multiplier: float
    bound: float | None


def device(path: str) -> str:
    return "cuda" if path == "triton" and torch.cuda.is_available() else "cpu"


def mesh() -> DeviceMesh:
    """Return the mesh of all ranks, or of this process alone if there is only one."""
    if not dist.is_initialized():
        if "RANK" in os.environ:
            dist.init_process_group("gloo")
        else:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return init_device_mesh("cpu", (dist.get_world_size(),))


def placed(path: str, tensor: Tensor) -> Tensor:
    """Return the tensor on the path's device, or sharded."""
    if path == "dtensor":
        return distribute_tensor(tensor, mesh(), [Shard(0)])
    return tensor.clone().to(device(path))


def optimizer(path: str, starts: Sequence[Tensor], **options) -> tuple[AdamCPR, list[torch.nn.Parameter]]:
    parameters = [torch.nn.Parameter(placed(path, start)) for start in starts]
    kernel = {"dtensor": "auto"}.get(path, path)
    return AdamCPR([{"params": parameters, "regularize": True}], kernel=kernel, **options), parameters


def advance(path: str, ours: AdamCPR, parameters: Sequence[torch.nn.Parameter], gradients: Gradients) -> None:
    for step in gradients:
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = None if gradient is None else placed(path, gradient.to(p.dtype))
        ours.step()


def ends(ours: AdamCPR, parameters: Sequence[torch.nn.Parameter]) -> list[End]:
    found = []
    for p in parameters:
        theta, state = p.detach(), ours.state[p]
        whole = theta.full_tensor() if isinstance(theta, DTensor) else theta
        kappa = state["kappa"].item() if state["kappa_set"] else None
        found.append(End(whole.cpu().double(), state["lagmul"].item(), kappa))
    return found


def train(path: str, starts: Sequence[Tensor], gradients: Gradients, **options) -> list[End]:
    """Return the matrices after one step with each row of gradients. None skips a matrix in that step."""
    if path == "reference":
        return _train_reference(starts, gradients, **options)
    ours, parameters = optimizer(path, starts, **options)
    advance(path, ours, parameters, gradients)
    return ends(ours, parameters)


def _train_reference(
    starts: Sequence[Tensor],
    gradients: Gradients,
    *,
    kappa_init_method: str,
    kappa_init_param: float | None = None,
    reg_step_size: int = 200,
    reg_function: str = "l2",
    kappa_update: float = 1.0,
    **options,
) -> list[End]:
    bound = (kappa_init_method, reg_step_size if kappa_init_param is None else kappa_init_param)
    plain = [Reference(start.clone(), bound, reg_function, mu=kappa_update, **options) for start in starts]
    for step in gradients:
        for matrix, gradient in zip(plain, step, strict=True):
            if gradient is not None:
                matrix.step(gradient.to(matrix.theta.dtype))
    return [End(matrix.theta.double(), matrix.lam, matrix.kappa) for matrix in plain]


def outward(
    shapes: Sequence[tuple[int, ...]], steps: int, seed: int, scale: float = 0.05
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return float64 matrices, and noisy gradients that push them outward with falling strength."""
    generator = torch.Generator().manual_seed(seed)

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    starts = [scale * noise(shape) for shape in shapes]
    return starts, [[noise(start.shape) - 1.5 * 0.98**t * start.sign() for start in starts] for t in range(steps)]
