"""timm's models by name."""

from torch import nn

from tasks.engine.errors import UserError
from tasks.imagenet.config import TimmModel


def build(cfg: TimmModel) -> nn.Module:
    """Return timm's model `cfg.timm` with `cfg.num_classes` outputs, initialized by timm.

    timm.create_model receives `cfg.arguments`.

    Raises:
        UserError: there is no such model, or it does not take the arguments.
    """
    import timm

    try:
        return timm.create_model(cfg.timm, pretrained=False, num_classes=cfg.num_classes, **cfg.arguments)
    except Exception as error:  # timm checks few of its arguments
        raise UserError(f"task.model: timm cannot make {cfg.timm} ({error})") from error
