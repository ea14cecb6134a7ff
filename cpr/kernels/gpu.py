"""The single-pass kernel for GPUs (triton_kernels.py), as functions on packs.

λ, κ and all that follows from them stay on the device: no step waits for the GPU, so a step may be captured in a CUDA graph (after a
warm-up step, which makes the state). Not measured on a GPU. In Triton's interpreter (TRITON_INTERPRET=1) it works on CPU tensors.
"""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cpr.kernels.cpu import DTYPES
from cpr.measures import Measure, Pull
from cpr.pack import Pack
from cpr.pieces import in_one_piece


def handles(parameter: Tensor) -> bool:
    """Whether the kernel can work on a parameter: its elements lie in one piece of GPU memory, in a dtype that it knows."""
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    return available() and parameter.device.type == device and parameter.dtype in DTYPES and in_one_piece(parameter)


@functools.cache
def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


class Plan:
    """How the kernels find their way: all tensors' chunks in one row, in tables on the device."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        from cpr.kernels import triton_kernels  # takes half a second: only where it is used

        self.kernels = triton_kernels
        self.device = tensors[0].device
        self.dtype = {torch.float32: triton_kernels.tl.float32, torch.bfloat16: triton_kernels.tl.bfloat16}[tensors[0].dtype]
        numel = torch.tensor([t.numel() for t in tensors])
        chunks = (numel + triton_kernels.CHUNK - 1) // triton_kernels.CHUNK
        first = torch.cat([torch.zeros(1, dtype=torch.int64), chunks.cumsum(0)])
        self.chunks = int(first[-1])
        self.numel, self.first = numel.to(self.device), first.to(self.device)
        self.tensor_of = torch.repeat_interleave(torch.arange(len(tensors)), chunks).to(self.device)
        self.parts = torch.empty(self.chunks, 2, dtype=torch.float64, device=self.device)
        self._known: list[int] = []
        self._addresses = torch.empty(0)
        self._aligned = False

    def launch(self, name: str, lists: Sequence[Sequence[Tensor]], *arguments: Any, **constants: Any) -> None:
        """Starts the kernel on every chunk of the tensors, whose lists are of equal lengths."""
        if self.chunks == 0:
            return
        addresses = [tensor.data_ptr() for tensors in lists for tensor in tensors]
        if addresses != self._known:  # gradients may be elsewhere at every step; the copy does not wait for the device
            for alike in zip(*(tensors for tensors in lists if tensors), strict=True):
                _check_layout(alike)
            table = torch.tensor(addresses, dtype=torch.int64, pin_memory=self.device.type == "cuda")
            self._known, self._addresses = addresses, table.to(self.device, non_blocking=True)
            self._aligned = all(address % 16 == 0 for address in addresses)
        constants |= {"DTYPE": self.dtype, "ALIGNED": self._aligned}
        with self._on_device():
            getattr(self.kernels, name)[(self.chunks,)](
                self._addresses, len(lists[0]), self.tensor_of, self.first, self.numel, *arguments,
                **constants, BLOCK=self.kernels.BLOCK, CHUNK=self.kernels.CHUNK,
            )  # fmt: skip

    def reduced(self) -> Tensor:
        """The parts' sums, float64 [tensors, 2]."""
        out = torch.empty(len(self.numel), 2, dtype=torch.float64, device=self.device)
        with self._on_device():
            self.kernels.reduce_kernel[(len(self.numel),)](self.parts, self.first, out, BLOCK=128)
        return out

    def _on_device(self) -> contextlib.AbstractContextManager:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()


def _check_layout(alike: Sequence[Tensor]) -> None:
    """Elements are addressed by their place in memory, which must be the same in a parameter, its gradient and its moments."""
    if any(tensor.stride() != alike[0].stride() or tensor.dtype != alike[0].dtype for tensor in alike):
        raise RuntimeError("cpr: a parameter's memory layout or dtype was changed after the first step; make the optimizer anew")


def _laid_out_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor with the memory layout of `like`: itself, or a copy."""
    if tensor.stride() == like.stride() and tensor.dtype == like.dtype:
        return tensor
    return torch.empty_like(like).copy_(tensor)


_plans: WeakKeyDictionary[Pack, Plan] = WeakKeyDictionary()


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """What R of every parameter is made of: float64 [parameters, 2]; the same bits as `adam_` returns."""
    plan = Plan(parameters)
    plan.launch("sums_kernel", [parameters], plan.parts, KIND=measure.code)
    return plan.reduced()


def adam_(pack: Pack, grads: list[Tensor], group: dict[str, Any], pull: Pull | None, measure: Measure | None) -> Tensor | None:
    """θ ← pull(θ) + Opt(g) in one pass; returns the sums of the new θ if a measure is given.

    Gradients in another memory layout or dtype than their parameters are copied first, all of them: one launch takes all matrices.
    """
    tensors = pack.tensors
    plan = _plans.get(pack)
    if plan is None:
        plan = _plans[pack] = Plan(tensors)
    beta1, beta2 = group["betas"]
    steps = pack.scalars["step"]
    steps += 1
    t = steps.double()
    rates = torch.stack([group["lr"] / (1 - beta1**t), (1 - beta2**t).rsqrt()]).float()
    grads = [_laid_out_as(gradient, tensor) for gradient, tensor in zip(grads, tensors, strict=True)]
    plan.launch(
        "step_kernel",
        [tensors, grads, pack.exp_avgs, pack.exp_avg_sqs, pack.max_exp_avg_sqs],
        rates,
        rates if pull is None else torch.stack(pull),
        plan.parts,
        1 - beta1,  # in float64: of 0.999 float32 would leave 4 digits
        beta2,
        1 - beta2,
        float(group["eps"]),
        -1.0 if group["maximize"] else 1.0,
        KIND=0 if measure is None else measure.code,
        PULL=0 if pull is None else 1 if measure is not None and measure.code == 1 else 2,
        AMSGRAD=bool(pack.max_exp_avg_sqs),
    )
    torch.autograd.graph.increment_version(tensors)
    return None if measure is None else plan.reduced()
