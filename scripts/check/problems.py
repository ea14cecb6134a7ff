"""The training problem of each task at any size on random inputs: for memory and speed, without data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.sweep.full_size import VOLUMES, build, tiny_mistral
from tasks.engine.workload import Work
from tasks.models.flops import flops_per_image


@dataclass(frozen=True)
class Problem:
    """A task's model with a loss.

    batch: returns random examples, given their number and a device.
    blocks: those whose activations can be computed again. Empty if the model has none.
    work: what an update of one example processes.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    batch: Callable[[int, torch.device], Any]
    blocks: list[nn.Module]
    work: Work


def problem_of(task: Any, tiny: bool = False) -> Problem:
    """Return the problem of a task's configuration, with its model on torch's default device.

    Args:
        task: the configuration.
        tiny: in place of Mistral-7B, whose size no key changes, take a rehearsal's.
    """
    model = tiny_mistral(task) if tiny and task.name == "lora" else build(task)
    return PROBLEMS[task.name](task, model)


def _gpt2(task: Any, model: Any) -> Problem:
    def batch(count: int, device: torch.device) -> Tensor:
        return torch.randint(task.model.vocabulary, (count, task.model.context + 1), device=device)

    work = Work("token", task.model.context, model.shape.flops_per_token())
    return Problem(model, lambda model, tokens: model(tokens[:, :-1], tokens[:, 1:]), batch, list(model.blocks), work)


def _images(model: nn.Module, size: int, blocks: list[nn.Module], classes: int, channels_last: bool = False) -> Problem:
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, size, size, device=device)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.randint(classes, (count,), device=device)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(model(images).float(), labels)

    return Problem(model, loss, batch, blocks, Work("image", 1, flops_per_image(model, size)))


def _resnet18(task: Any, model: nn.Module) -> Problem:
    return _images(model, 32 // task.data.downsample, [], task.model.num_classes)


def _imagenet(task: Any, model: nn.Module) -> Problem:
    blocks = list(getattr(model, "blocks", []))
    return _images(model, task.data.image_size, blocks, task.model.num_classes, task.channels_last)


def _clip(task: Any, model: Any) -> Problem:
    from tasks.clip.model import Classifier, Head

    classes = 1000
    network = Classifier(model.visual, Head(model.visual.output_dim, classes, normalize=False))
    return _images(network, task.data.image_size, list(model.visual.transformer.resblocks), classes)


def _lora(task: Any, model: Any) -> Problem:
    def batch(count: int, device: torch.device) -> Tensor:
        return torch.randint(model.config.vocab_size, (count, task.data.max_tokens), device=device)

    def loss(model: Any, tokens: Tensor) -> Tensor:
        """The answer is the last token."""
        logits = model(input_ids=tokens[:, :-1], use_cache=False, logits_to_keep=1).logits[:, -1]
        return F.cross_entropy(logits.float(), tokens[:, -1])

    # Forward and backward without the gradients of frozen weights: 2 FLOP each.
    flops = 4.0 * sum(p.numel() for p in model.parameters()) * task.data.max_tokens
    return Problem(model, loss, batch, list(model.model.layers), Work("example", 1, flops))


def _segmentation(task: Any, model: nn.Module) -> Problem:
    _, channels, labels = VOLUMES[task.data.name]

    def batch(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        volumes = torch.randn(count, channels, *task.plan.patch, device=device)
        return volumes, torch.randint(labels, (count, *task.plan.patch), device=device)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        volumes, segmentation = batch
        finest, *_ = model(volumes)  # nnU-Net's other outputs cost little
        return F.cross_entropy(finest.float(), segmentation)

    return Problem(model, loss, batch, [], Work("patch", 1))


PROBLEMS: dict[str, Callable[[Any, Any], Problem]] = {
    "cifar100": _resnet18,
    "cifar100c": _resnet18,
    "gpt2": _gpt2,
    "imagenet": _imagenet,
    "clip": _clip,
    "lora": _lora,
    "segmentation": _segmentation,
}
