"""Sharded parameters (FSDP2, tensor parallelism): R is the norm of the whole matrix, so the shards' sums are added up.

Each rank works on its shard; one collective per step adds up the sums of all matrices together, whatever groups, dtypes and kernels
they have. It is started after the last of them is written and waited for when the next step begins, behind the forward and the backward
pass. λ and κ follow from the same numbers on every rank, and so are the same. Replicated parameters (DDP) need nothing.

What that leaves:
  - Parameters that are spread over different sets of ranks (or on devices of different kinds) need a collective for each set. A matrix
    sharded along several dimensions of its mesh (FSDP2 and tensor parallelism together) is added up over all ranks of the mesh at once.
  - With evaluate_at="after" R is taken between the update and the pull, so that the collective is waited for within the step.
  - One more, waited for at the start of a step, brings up to date what is not known there: R(θ_0) in the first step, R of parameters that
    get a gradient after steps without, and of those that somebody has changed since the last step.
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
    """Whether it is a DTensor. Without the import, which takes half a second: where none has been made, nobody has imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor; any other tensor as it is."""
    return tensor._local_tensor if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """A DTensor's whole tensor, gathered from all ranks; any other tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_gradient(parameter: Tensor) -> Tensor:
    """This rank's shard of the gradient, sharded as the parameter is."""
    gradient: Any = parameter.grad
    if is_sharded(parameter) and gradient.placements != parameter.placements:  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return local(gradient)


def mesh_of(parameter: Tensor) -> Any:
    """The device mesh that a parameter lies on; None for an ordinary tensor."""
    return parameter.device_mesh if is_sharded(parameter) else None  # type: ignore[attr-defined]


_in_flight: set[Any] = set()  # collectives that were started and not yet waited for


@atexit.register
def _wait_for_all() -> None:
    """Nobody waits for the last step's collective, and a gloo thread still at work when the interpreter goes down aborts the process."""
    if _in_flight:
        _wait(list(_in_flight))
        let_gloo_finish()


def let_gloo_finish() -> None:
    """Gives gloo's threads the time to let go of the last collectives' tensors, before the interpreter goes down.

    They take the GIL for that, and one that waits for it while Python finalizes aborts the process (pytorch issue 190489).
    """
    time.sleep(0.2)


def _wait(works: list[Any]) -> None:
    """Waits for collectives whose sums nobody will read."""
    for work in works:
        with contextlib.suppress(RuntimeError):  # the other ranks are gone
            work.wait()
        _in_flight.discard(work)
    works.clear()


class Shards:
    """Over which ranks the sums [matrices, 2] of parameters on one mesh are added up, and which of them this rank contributes.

    group: the process group; None if no parameter is sharded.
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
        # What is replicated along a dimension is contributed by its first rank alone.
        first = [mesh.get_local_rank(d) == 0 for d in range(mesh.ndim)]
        mine = [[float(all(first[d] or not p.placements[d].is_replicate() for d in dimensions))] for p in parameters]
        self.mine = torch.tensor(mine, dtype=torch.float64, device=parameters[0].device)


@functools.cache
def _group_of(world: Any, ranks: tuple[int, ...]) -> Any:
    """The process group of all ranks of a mesh; `world`: the default group, that of all ranks."""
    if len(ranks) == dist.get_world_size():
        return world
    return dist.new_group(list(ranks), use_local_synchronization=True)  # ranks outside the mesh need not know of it


class Additions:
    """The collectives of one optimizer that are on their way. Those of one that is dropped are waited for, too."""

    def __init__(self) -> None:
        self._works: list[Any] = []
        self._deliver: list[tuple[Callable[[Tensor], None], Tensor]] = []
        weakref.finalize(self, _wait, self._works).atexit = False  # _wait_for_all does it

    def start(self, parts: Sequence[tuple[Shards, Tensor, Tensor, Callable[[Tensor], None]]]) -> None:
        """Begin to add up sums over ranks, all sums of a process group in one buffer.

        Args:
            parts: the shards, the rows of them, this rank's sums [rows, 2], and the function that `wait` gives their totals to.
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
