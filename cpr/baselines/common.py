"""Functions that several baselines share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def plain_adam_step() -> Callable[[torch.optim.Adam], Any]:
    """Return torch's Adam.step without torch's hooks, for a subclass's own step to call.

    torch wraps Adam.step in hooks once a plain Adam has been made anywhere in the process. A
    subclass's step is wrapped already, so its hooks would run twice.
    """
    step = torch.optim.Adam.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]


def joint_norm(tensors: list[Tensor]) -> Tensor:
    """Return ‖·‖₂ over all of the tensors (at least one), 0-dim, in float32 at least."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)).square().sum().sqrt()
