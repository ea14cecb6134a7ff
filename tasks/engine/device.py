"""Device, threads, precision and determinism."""

import contextlib
import os
import re

import torch

from tasks.engine.config import Config, checked_device
from tasks.engine.errors import UserError


def pick_device(name: str) -> torch.device:
    """Return the torch device of `device=`: cpu, cuda or cuda:N.

    Raises:
        UserError: the name is unknown, or this machine has no such device.
    """
    try:
        device = torch.device(checked_device(name))
    except ValueError as error:
        raise UserError(f"device={name} {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device={name} but no GPU is visible here; run on a machine with one, or say device=cpu (slow) or scale=mini"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name} but only {torch.cuda.device_count()} GPUs are visible")
    return device


def enough_devices(device: str, count: int) -> None:
    """Raise UserError if this machine has fewer GPUs than the processes of a run."""
    if pick_device(device).type == "cuda" and count > torch.cuda.device_count():
        here = torch.cuda.device_count()
        raise UserError(
            f"gpus={count} but {here} GPU{'s are' if here > 1 else ' is'} visible here; gpus={here} trains the same protocol"
        )


def set_up(cfg: Config) -> None:
    """Set threads, float32 matrix products and determinism for the whole process."""
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.set_float32_matmul_precision("highest" if cfg.task.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = cfg.task.precision != "fp32"
    torch.backends.cudnn.benchmark = not cfg.deterministic
    on_gpu = str(cfg.device).startswith("cuda")
    if cfg.deterministic and on_gpu:
        # cuBLAS reads it at its first product. Without it, two equal products may differ.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On a GPU, attention kernels use their deterministic backward only in strict mode. On a CPU a
    # warning is enough.
    torch.use_deterministic_algorithms(cfg.deterministic, warn_only=not on_gpu)
    # Determinism also fills every new tensor with NaN, to reveal reads of uninitialized memory. The
    # suite makes no such reads, and the filling costs a fifth of a small model's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def without_deterministic_form(error: Exception) -> str | None:
    """Return the operation that has no deterministic form on a GPU, if the error names one."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    return found[1] if found else None


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context of forward and loss: bfloat16 if the task asks for it."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
