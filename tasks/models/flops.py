"""Count the floating-point operations of a model's steps."""

import copy

import torch
from torch import nn


def flops_per_image(model: nn.Module, image_size: int) -> float:
    """Return the FLOP of forward and backward per image: three times the forward pass's matrix products.

    They are counted on a copy of the model without memory.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(model).to("meta").eval()  # on other devices torch's fused attention is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    return 3.0 * counter.get_total_flops()
