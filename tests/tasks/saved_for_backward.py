"""Measure what a forward pass keeps for the backward pass."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def saved_bytes(model: nn.Module, loss: Callable[[Any], Tensor], batch: Any, precision: str) -> int:
    """Return the bytes of all tensors that are kept, each once and without the model's own."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in own:
            kept[storage] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        result = loss(batch)
    assert result.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
