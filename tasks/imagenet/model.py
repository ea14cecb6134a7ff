"""timm's models by name."""

import copy
import traceback

import torch
from torch import Tensor, nn

from tasks.engine.errors import UserError, one_line
from tasks.engine.section import shown_as
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
        raise UserError(f"task.model: timm cannot make {_named(cfg)} ({_reason(error)})") from error


def check(network: nn.Module, cfg: TimmModel, size: int) -> None:
    """Try a copy of a model on two black images of 3 x `size` x `size`, as in training.

    Nothing is drawn from the global generator.

    Raises:
        UserError: the model doesn't take them, or doesn't return `cfg.num_classes` values for each.
    """
    images = f"images of 3 x {size} x {size}"
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = copy.deepcopy(network).train()(torch.zeros(2, 3, size, size))
    except Exception as error:  # such as a probability of 2, which timm first uses here
        raise UserError(f"task.model: {_named(cfg)} does not take {images} ({_reason(error)})") from error
    if not isinstance(found, Tensor) or found.shape != (2, cfg.num_classes):
        shape = f"values of shape {list(found.shape[1:])}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(f"task.model: {_named(cfg)} gives {shape} for an image, not {cfg.num_classes} values")


def _named(cfg: TimmModel) -> str:
    return f"{cfg.timm} with arguments={shown_as(cfg.arguments)}"


def _reason(error: Exception) -> str:
    """Return an error's message, or the line of code that raised it, such as an assertion without one."""
    return one_line(error) or str(traceback.extract_tb(error.__traceback__)[-1].line)
