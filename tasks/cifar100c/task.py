"""Build the workload of cifar100c, scored by the accuracy on corrupted test images after the last step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tasks.cifar100c.config import Cifar100cTask
from tasks.cifar100c.data import Corrupted, load
from tasks.cifar100c.prepare import digest
from tasks.data.images.arrays import at_size, normalizer
from tasks.data.images.config import ArrayData
from tasks.engine.config import Config
from tasks.engine.halves import with_halves
from tasks.engine.workload import Metric, Workload
from tasks.recipes.resnet18 import build as build_clean
from tasks.recipes.resnet18 import model

__all__ = ["build", "model"]


def build(cfg: Config[Cifar100cTask], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`.

    Raises:
        UserError: clean or corrupted images are not in `cfg.data_dir`, or a setting is wrong.
    """
    images = load(cfg.task, Path(cfg.data_dir))
    return replace(
        build_clean(cfg, device),
        metric=Metric("corrupted_accuracy", "%", "higher"),
        at_end=corrupted_accuracy(images, cfg.task.data, device),
        data=digest(cfg.task.data.name, Path(cfg.data_dir)),
    )


def corrupted_accuracy(
    images: Corrupted, cfg: ArrayData, device: torch.device, batch_size: int = 1000
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function for top-1 accuracies in percent, in evaluation mode.

    It gives the mean over corruptions and severities, and the accuracy of each corruption and each
    severity. All use the same images, so the mean over them is also the mean over all images. The
    mean is also given for each half of the images.
    """
    normalize = normalizer(cfg, device)

    @torch.no_grad()
    def score(model: nn.Module) -> dict[str, float]:
        model.eval()
        found = [
            model(normalize(at_size(pixels.to(device), cfg))).argmax(1) == labels.to(device)
            for pixels, labels in images.batches(batch_size)
        ]
        right = torch.cat(found).cpu().double().view(len(images.files), len(images.severities), len(images.labels))
        accuracy = 100 * right.mean(2)
        result = with_halves("corrupted_accuracy", right.mean((0, 1)), 100)
        for severity, column in zip(images.severities, accuracy.T, strict=True):
            result[f"corrupted_accuracy_severity_{severity}"] = column.mean().item()
        for name, row in zip(images.files, accuracy, strict=True):
            result[f"corrupted_accuracy_{name}"] = row.mean().item()
        return result

    return score
