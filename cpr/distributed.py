"""Sharded parameters (FSDP2, tensor parallelism): R is the norm of the whole matrix.

Each rank works on its shard. One collective per step adds up the sums of all matrices together,
whatever groups, dtypes and kernels they have. It starts after the last matrix is written, overlaps
the forward and the backward pass, and is waited for when the next step begins. λ and κ follow
from the same numbers on every rank, so they are the same. Replicated parameters (DDP) need nothing.

Three cases cost more:

  - Each different set of ranks that parameters are spread over (and each kind of device) needs a
    collective of its own. A matrix may be sharded along several dimensions of its mesh, as with FSDP2
    and tensor parallelism together. It is added up over all ranks of the mesh at once.
  - With evaluate_at="after" R is taken between the update and the pull. The step itself then waits
    for the collective.
  - A step that begins without up-to-date sums needs one more collective and waits for it. This
    concerns R(θ_0) in the first step, parameters that get a gradient after steps without one, and
    parameters that were changed since the last step.
"""

import atexit
import contextlib
import functools
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether the tensor is a DTensor.

    The module is not imported here, which would take half a second. If nothing has imported it, there
    are no DTensors.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, or any other tensor as it is."""
    return tensor._local_tensor if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def unsharded(tensor: Tensor) -> Tensor:
    """Return a DTensor's whole tensor, gathered from all ranks, or any other tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_gradient(parameter: Tensor) -> Tensor:
    """Return this rank's shard of the gradient, sharded as the parameter is."""
    gradient: Any = parameter.grad
    if is_sharded(parameter) and gradient.placements != parameter.placements:  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return local(gradient)


def mesh_of(parameter: Tensor) -> Any:
    """Return the device mesh that a parameter lies on, or None for an ordinary tensor."""
    return parameter.device_mesh if is_sharded(parameter) else None  # type: ignore[attr-defined]


_in_flight: set[Any] = set()  # collectives that were started and not yet waited for


@atexit.register
def _wait_for_all() -> None:
    """Wait for the last step's collective, which nothing else waits for.

    A gloo thread still at work when the interpreter goes down aborts the process.
    """
    if _in_flight:
        _wait(list(_in_flight))
        let_gloo_finish()


def let_gloo_finish() -> None:
    """Give gloo's threads time to release the last collectives' tensors before the interpreter goes down.

    The release needs the GIL. A thread that waits for the GIL while Python finalizes aborts the
    process (pytorch issue 190489).
    """
    time.sleep(0.2)


def _wait(works: list[Any]) -> None:
    """Wait for collectives whose sums nothing will read."""
    for work in works:
        with contextlib.suppress(RuntimeError):  # the other ranks are gone
            work.wait()
        _in_flight.discard(work)
    works.clear()


class Shards:
    """The ranks that add up the sums [matrices, 2] of one mesh's parameters, and this rank's share.

    Attributes:
        group: the process group, None if no parameter is sharded.
        mine: [matrices, 1], 1 for a matrix whose sums this rank contributes and 0 for every other one.
    """

    def __init__(self, parameters: Sequence[Any]) -> None:
        self.group: Any = None
        mesh = mesh_of(parameters[0])
        dimensions = [] if mesh is None else list(range(mesh.ndim))
        sharding = [d for d in dimensions if any(not p.placements[d].is_replicate() for p in parameters)]
        if not sharding:
            return
        if len(sharding) == 1:
            self.group, dimensions = mesh.get_group(sharding[0]), sharding
        else:
            self.group = _group_of(dist.group.WORLD, tuple(mesh.mesh.flatten().tolist()))
        # The first rank alone contributes what is replicated along a dimension.
        first = [mesh.get_local_rank(d) == 0 for d in range(mesh.ndim)]
        mine = [[float(all(first[d] or not p.placements[d].is_replicate() for d in dimensions))] for p in parameters]
        self.mine = torch.tensor(mine, dtype=torch.float64, device=parameters[0].device)


@functools.cache
def _group_of(world: Any, ranks: tuple[int, ...]) -> Any:
    """Return the process group of a mesh's ranks. `world` is the default group of all ranks."""
    if len(ranks) == dist.get_world_size():
        return world
    return dist.new_group(list(ranks), use_local_synchronization=True)  # ranks outside the mesh need not know of it


class Additions:
    """The pending collectives of one optimizer. They are waited for even if the optimizer is dropped."""

    def __init__(self) -> None:
        self._works: list[Any] = []
        self._deliver: list[tuple[Callable[[Tensor], None], Tensor]] = []
        weakref.finalize(self, _wait, self._works).atexit = False  # _wait_for_all does it

    def start(self, parts: Sequence[tuple[Shards, Tensor, Tensor, Callable[[Tensor], None]]]) -> None:
        """Begin to add up sums over ranks, all sums of a process group in one buffer.

        Args:
            parts: for each, the shards, their rows, this rank's sums [rows, 2], and the function that
                `wait` passes the totals to.
        """
        alike: dict[Any, list[int]] = {}
        for number, (shards, _, sums, _) in enumerate(parts):
            alike.setdefault((shards.group, sums.device), []).append(number)
        for (group, _), numbers in alike.items():
            chosen = [parts[number] for number in numbers]
            buffer = torch.cat([sums * shards.mine[rows] for shards, rows, sums, _ in chosen])
            totals = buffer.split([len(sums) for _, _, sums, _ in chosen])
            self._deliver += zip([take for *_, take in chosen], totals, strict=True)
            work = dist.all_reduce(buffer, group=group, async_op=True)
            self._works.append(work)
            _in_flight.add(work)

    def wait(self) -> None:
        """Wait until all totals are there, and hand them over.

        Raises:
            RuntimeError: another rank is gone.
        """
        while self._works:
            work = self._works.pop()
            _in_flight.discard(work)
            work.wait()
        deliver, self._deliver = self._deliver, []
        for take, totals in deliver:
            take(totals)


def any_rank(found: bool, groups: Sequence[Any]) -> bool:
    """Return whether `found` is true on this rank or on another one of the process groups."""
    for group in groups:
        flag = torch.tensor(float(found), device=_device_of(group))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=group)
        found = bool(flag)
    return found


def _device_of(group: Any) -> torch.device:
    """Return a device that the group's collectives take."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")
    )
