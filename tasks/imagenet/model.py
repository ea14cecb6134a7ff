"""timm's models by name."""

from typing import Any

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
