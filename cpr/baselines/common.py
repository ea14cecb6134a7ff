"""What several baselines need."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def plain_adam_step() -> Callable[[torch.optim.Adam], Any]:
    """torch's Adam.step for a subclass's own step to call, without the hooks that torch wraps around it.

    torch wraps the class's method once a plain Adam has been made anywhere in the process; a subclass's step is wrapped already, and
    step hooks would run twice.
    """
    step = torch.optim.Adam.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]


def joint_norm(tensors: list[Tensor]) -> Tensor:
    """‖·‖₂ over all of the tensors (at least one), 0-dim, in float32 at least."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)).square().sum().sqrt()
