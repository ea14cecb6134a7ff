"""LoRA: beside every chosen matrix W of a frozen model the product of two small ones, W + (alpha / r) B A, where B starts at zero."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from tasks.engine.errors import UserError


def add(model: nn.Module, r: int, alpha: float, targets: Sequence[str]) -> None:
    """Freezes the model and puts A [r, inputs] and B [outputs, r] beside every linear layer whose name ends in one of `targets`.

    A and B are float32, whatever the model is. At first the model computes what it did before.

    Raises UserError if the package peft is missing, or for settings that it refuses.
    """
    peft = _import_peft()
    try:
        config = peft.LoraConfig(r=r, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UserError(f"task.lora: {error}") from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextlib.contextmanager
def without(model: nn.Module) -> Iterator[nn.Module]:
    """The model as it was before LoRA."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield model
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError("task=lora needs the package peft; install it with: pip install '.[suite]'") from error
    return peft
