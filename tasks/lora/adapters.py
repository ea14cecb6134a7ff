"""LoRA: replace each chosen matrix W of a frozen model by W + (alpha / r) B A, with B zero at the start."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from tasks.engine.errors import UserError


def add(model: nn.Module, r: int, alpha: float, targets: Sequence[str]) -> None:
    """Freeze the model, and add A [r, inputs] and B [outputs, r] to every chosen linear layer.

    The name of a chosen layer ends in one of `targets`. A and B are float32 for any type of the
    model. At first the model computes the same as before.

    Raises:
        UserError: the package peft is missing, or refuses the settings.
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
    """Disable LoRA in the block, so that the model is as it was before."""
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
