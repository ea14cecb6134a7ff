"""The single-pass kernel for GPUs (triton_kernels.py), as functions on matrices.

λ, κ and all that follows from them stay on the device, so no step waits for the GPU. A step may
therefore be captured in a CUDA graph, after a warm-up step that makes the state. In Triton's
interpreter (TRITON_INTERPRET=1) the kernel works on CPU tensors.
"""

import contextlib
import functools
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cpr import bounds
from cpr.kernels.cpu import DTYPES
from cpr.measures import Measure, Pull
from cpr.pieces import in_one_piece, laid_out_alike


def handles(parameter: Tensor) -> bool:
    """Return whether the kernel can work on a parameter.

    Its elements must lie in one piece of GPU memory, in a dtype that the kernel knows.
    """
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    return available() and parameter.device.type == device and parameter.dtype in DTYPES and in_one_piece(parameter)


@functools.cache
def available() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


class Tables:
    """The kernels' tables on the device, with all tensors' chunks in one row, and their results.

    The results stay in one place, so a captured step reads what the step before it has left,
    captured or not.

    Attributes:
        parts: the sums of every chunk, which `reduce_into` adds up for every tensor.
        pull: [4, tensors], see triton_pull.pull_kernel.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # Imported here because it takes half a second.
        from cpr.kernels import triton_kernels, triton_pull

        self.kernels, self.constraint = triton_kernels, triton_pull
        self.device = tensors[0].device
        self.dtype = {torch.float32: triton_kernels.tl.float32, torch.bfloat16: triton_kernels.tl.bfloat16}[
            tensors[0].dtype
        ]
        self.count = len(tensors)
        numel = torch.tensor([t.numel() for t in tensors], device="cpu")
        chunks = (numel + triton_kernels.CHUNK - 1) // triton_kernels.CHUNK
        first = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), chunks.cumsum(0)])
        self.chunks = int(first[-1])
        self.numel, self.first = numel.to(self.device), first.to(self.device)
        self.tensor_of = torch.repeat_interleave(torch.arange(len(tensors), device="cpu"), chunks).to(self.device)
        self.parts = torch.empty(self.chunks, 2, dtype=torch.float64, device=self.device)
        self.pull = torch.empty(4, len(tensors), dtype=torch.float32, device=self.device)
        self._known: list[list[int]] = []
        self._addresses = torch.empty(0, device="cpu")
        self._reserve: Tensor | None = None
        self._replayed: list[Tensor] = []
        self._aligned = False

    def launch(self, name: str, lists: Sequence[Sequence[Tensor]], *arguments: Any, **constants: Any) -> None:
        """Start the kernel on every chunk of the tensors. The lists must be of equal length."""
        if self.chunks == 0:
            return
        known = [[tensor.data_ptr() for tensor in tensors] for tensors in lists]
        if known != self._known:
            self._look_up(known)
        getattr(self.kernels, name)[(self.chunks,)](
            self._addresses, self.count, self.tensor_of, self.first, self.numel, *arguments,
            **constants, DTYPE=self.dtype, ALIGNED=self._aligned, BLOCK=self.kernels.BLOCK, CHUNK=self.kernels.CHUNK,
        )  # fmt: skip

    def _look_up(self, known: list[list[int]]) -> None:
        """Put the addresses into the table on the device, without making the host wait."""
        table = torch.tensor([address for row in known for address in row], dtype=torch.int64, device="cpu")
        self._aligned = not (table.numpy() % 16).any()
        if self.device.type == "cuda":
            table = self._pinned(table)
        self._known, self._addresses = known, table.to(self.device, non_blocking=True)

    def _pinned(self, table: Tensor) -> Tensor:
        """Return the table in pinned memory, which the device can read by itself.

        Every replay of a CUDA graph reads the table again, so it is kept. No memory may be pinned
        during a capture, so the table of an earlier step is held in reserve.
        """
        if not torch.cuda.is_current_stream_capturing():
            if self._reserve is None:
                self._reserve = torch.empty_like(table, pin_memory=True)
            return table.pin_memory()
        self._replayed.append(table.pin_memory() if self._reserve is None else self._reserve.copy_(table))
        self._reserve = None
        return self._replayed[-1]

    def holds(self, lr: Any) -> bool:
        """Return whether the lr is on the device, where a schedule may change it in place."""
        return isinstance(lr, Tensor) and lr.device == self.device

    def number(self, lr: Any) -> Any:
        """Return the lr as the kernels take it."""
        return lr if self.holds(lr) else float(lr)

    def reduce_into(self, sums: Tensor, step: Tensor | None) -> None:
        """Add up `parts` into `sums`, float64 [tensors, 2], and count a step in `step`, if given."""
        self.kernels.reduce_kernel[(self.count,)](
            self.parts, self.first, sums if step is None else step, sums, COUNTS=step is not None, BLOCK=128
        )


def _log(beta: float) -> float:
    """Return log beta, from which the kernels take 1 - beta^t as 1 - exp(t log beta).

    Triton takes numbers in float32, and 1 - beta would lose digits in it.
    """
    return math.log(beta) if beta > 0 else -math.inf


def _on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Make the tensor's GPU the current one, on which Triton starts kernels."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()


def _laid_out(gradient: Tensor, like: Tensor) -> Tensor:
    """Return a gradient with the memory layout and dtype of its parameter: itself, or a copy."""
    if gradient.dtype == like.dtype and laid_out_alike(like, gradient):
        return gradient
    return torch.empty_like(like).copy_(gradient)


_kept: WeakKeyDictionary[Any, dict[Any, Tables]] = WeakKeyDictionary()


def _tables(m: Any) -> Tables:
    """Return the tables of the matrices.

    The tables of a whole pack are cached, and the latest ones of a part of it.
    """
    kept = _kept.setdefault(m.pack, {})
    key = None if m.whole else tuple(m.rows)
    if key not in kept:
        whole = kept.get(None)
        kept.clear()
        kept |= {key: Tables(m.tensors)} | ({} if whole is None else {None: whole})
    return kept[key]


def sums(parameters: Sequence[Tensor], measure: Measure) -> Tensor:
    """Return the sums of R, float64 [parameters, 2]: the same bits as `adam_` leaves."""
    with _on_device(parameters[0]):
        tables = Tables(parameters)
        out = torch.empty(tables.count, 2, dtype=torch.float64, device=tables.device)
        tables.launch("sums_kernel", [parameters], tables.parts, KIND=measure.code)
        tables.reduce_into(out, step=None)
        return out


def refresh(m: Any) -> None:
    """Sum up all matrices if one was changed in place or moved in memory.

    Changes through `.data` are not noticed.
    """
    if not m.knows_sums():
        m.take_sums()


def constrain(m: Any) -> Pull:
    """Do what bounds.constrain does in one launch.

    L2 only scales, so it leaves the pull's other rows as they are.
    """
    group, measure, step, interval = m.group, m.measure, m.scalars["step"], int(m.group["reg_step_size"])
    with _on_device(m.tensors[0]):
        tables = _tables(m)
        state = [m.scalars.get(name, step) for name in bounds.STATE]
        tables.constraint.pull_kernel[(-(-tables.count // tables.constraint.BLOCK),)](
            tables.count, step, tables.number(group["lr"]), m.sums, m.n, *state, tables.pull,
            float(group["kappa_update"]), measure.excess, float(group["kappa_init_param"] or 0),
            interval, bounds.FIRST_DECIDING_SAMPLE * interval, 1 - group["reg_ema_decay"],
            KIND=measure.code, METHOD=bounds.METHODS.index(group["kappa_init_method"]), EMA=group["reg_ema_decay"] > 0,
            LATCHED=group["adaptive"] == "latched", TRANSITION=group["adaptive"] == "transition", SAFEGUARD=group["safeguard"],
            BY_LR=group["reg_by_lr"], LR_ON_DEVICE=tables.holds(group["lr"]), BLOCK=tables.constraint.BLOCK,
        )  # fmt: skip
        return Pull(*tables.pull)


def adam_(m: Any, pull: Pull | None) -> None:
    """θ ← pull(θ) + Opt(g) in one pass, with the sums of the new θ for regularized matrices.

    `pull` is what `constrain` returned. One launch takes all matrices, so all gradients in another
    memory layout or dtype than their parameters are copied first.
    """
    group, step = m.group, m.scalars["step"]
    with _on_device(m.tensors[0]):
        tables = _tables(m)
        kind = 0 if m.measure is None else m.measure.code
        gradients = [_laid_out(g, p) for g, p in zip(m.gradients, m.tensors, strict=True)]
        beta1, beta2 = group["betas"]
        tables.launch(
            "step_kernel",
            [m.tensors, gradients, m.exp_avgs, m.exp_avg_sqs, m.max_exp_avg_sqs],
            step,
            tables.number(group["lr"]),
            tables.pull,
            tables.parts,
            1 - beta1,  # in float64, since float32 would keep 4 digits of 1 - 0.999
            _log(beta1),
            beta2,
            1 - beta2,
            _log(beta2),
            float(group["eps"]),
            -1.0 if group["maximize"] else 1.0,
            KIND=kind,
            PULL=0 if pull is None else 1 if kind == 1 else 2,
            AMSGRAD=bool(m.max_exp_avg_sqs),
            LR_ON_DEVICE=tables.holds(group["lr"]),
        )
        torch.autograd.graph.increment_version(m.tensors)
        if m.measure is None:
            step += 1
            return
        tables.reduce_into(m.sums, step)
        m.keep_sums()
