"""timm's models by name, and the FLOP of their steps."""

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from tasks.engine.errors import UserError


def build(cfg: Any) -> nn.Module:
    """Return timm's model `cfg.timm` with `cfg.num_classes` outputs, initialized by timm.

    timm.create_model receives `cfg.arguments`.

    Raises:
        UserError: there is no such model, or it does not take the arguments.
    """
    import timm

    arguments: Any = OmegaConf.to_container(cfg.arguments)
    try:
        return timm.create_model(cfg.timm, pretrained=False, num_classes=cfg.num_classes, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"task.model: timm cannot make {cfg.timm} ({error})") from error


def flops_per_image(cfg: Any, image_size: int) -> float:
    """Return the FLOP of forward and backward per image: three times the forward pass's matrix products.

    They are counted on a model without memory.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        build(cfg).eval()(torch.empty(1, 3, image_size, image_size))
    return 3.0 * counter.get_total_flops()
