"""Sum gradients of a replicated model over the processes, bucket by bucket during the backward pass.

torch's DistributedDataParallel sorts its buckets again after the first step. After a restart, more
than two processes would then add up in another order, and the run would end with other bits. These
buckets stay the same, and the model needs no wrapper.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.engine.parallel import Ranks

BUCKET_BYTES = 25 * 2**20


class Replicas:
    """Sum the gradients of one step over all processes.

    Call `listen()` before the last backward pass and `finish()` after it. Every process must use
    the same parameters in a step.
    """

    def __init__(self, parameters: Iterable[Tensor], ranks: Ranks) -> None:
        self._ranks = ranks
        self._buckets = _buckets([p for p in parameters if p.requires_grad])
        self._listening = False
        self._missing: list[int] = []
        self._sent: list[tuple[Any, Tensor, list[Tensor]]] = []
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._ready(number))

    def listen(self) -> None:
        """Treat every gradient that the backward pass writes from now on as complete."""
        self._missing = [len(bucket) for bucket in self._buckets]
        self._listening = True

    def finish(self) -> None:
        """Send the remaining buckets and wait for all of them.

        A bucket remains if one of its parameters had no part in the loss.
        """
        self._listening = False
        while len(self._sent) < len(self._buckets):
            self._send()
        for work, flat, gradients in self._sent:
            work.wait()
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view(gradient.shape))
        self._sent = []

    def _ready(self, number: int) -> None:
        if not self._listening:
            return
        self._missing[number] -= 1
        # Keep the order of the buckets, so all processes send the same one.
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients]) if gradients else bucket[0].new_zeros(0)
        self._sent.append((dist.all_reduce(flat, group=self._ranks.group, async_op=True), flat, gradients))


def _buckets(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Return the parameters from last to first, as the backward pass reaches them. A bucket has one dtype."""
    buckets: list[list[Tensor]] = []
    size = 0
    for parameter in reversed(parameters):
        bytes_ = parameter.numel() * parameter.element_size()
        if not buckets or size + bytes_ > BUCKET_BYTES or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += bytes_
    return buckets
