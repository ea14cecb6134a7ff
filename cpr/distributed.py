"""Sharded parameters (FSDP2, tensor parallelism): R is the norm of the whole matrix, so the shards' sums are added up.

Each rank works on its shard; one collective per mesh dimension and step adds up the sums of all matrices together. It is
started when a step ends and waited for when the next one begins, behind the forward and the backward pass. λ and κ follow
from the same numbers on every rank, and so are the same. Replicated parameters (DDP) need nothing.
"""

import atexit
import contextlib
import sys
import time
from collections.abc import Sequence
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
    for work in _in_flight:
        with contextlib.suppress(RuntimeError):  # the other ranks are gone
            work.wait()
    if _in_flight:
        let_gloo_finish()


def let_gloo_finish() -> None:
    """Gives gloo's threads the time to let go of the last collectives' tensors, before the interpreter goes down.

    They take the GIL for that, and one that waits for it while Python finalizes aborts the process (pytorch issue 190489).
    """
    time.sleep(0.2)


def wait_for(work: Any) -> None:
    """Returns when the sums of `Shards.add_up` may be read."""
    if work is not None:
        work.wait()
        _in_flight.discard(work)


class Shards:
    """How the sums [matrices, 2] of parameters on one mesh are added up over its ranks."""

    def __init__(self, parameters: Sequence[Any]) -> None:
        # Per mesh dimension that shards any of them: its process group, and whose sums this rank contributes. What is replicated
        # along the dimension is contributed by its first rank alone.
        self.dimensions: list[tuple[Any, Tensor]] = []
        mesh = mesh_of(parameters[0])
        if mesh is None:
            return
        for dimension in range(mesh.ndim):
            sharded = [not p.placements[dimension].is_replicate() for p in parameters]
            if any(sharded):
                first = mesh.get_local_rank(dimension) == 0
                mine = torch.tensor([[float(s or first)] for s in sharded], dtype=torch.float64, device=parameters[0].device)
                self.dimensions.append((mesh.get_group(dimension), mine))

    def add_up(self, sums: Tensor) -> Any:
        """Adds the sums up in place; `wait_for` what it returns before they are read."""
        work: Any = None
        for group, mine in self.dimensions:
            wait_for(work)
            sums.mul_(mine)
            work = dist.all_reduce(sums, group=group, async_op=True)
            _in_flight.add(work)
        return work
