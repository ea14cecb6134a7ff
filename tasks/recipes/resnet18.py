"""ResNet18 on small images: CIFAR-100 (paper scale) or a part of Fashion-MNIST (mini scale)."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.data.images.arrays import Batch, Images, batches, load, mislabelled, normalizer, subset
from tasks.data.images.config import ArrayData
from tasks.data.images.torchvision_sets import digest
from tasks.engine.config import Config
from tasks.engine.halves import with_halves
from tasks.engine.workload import Metric, Workload
from tasks.models.resnet18 import ResNet18
from tasks.recipes.config import ResNet18Task


def build(cfg: Config[ResNet18Task], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`, or raise UserError if the data set is not in `cfg.data_dir`."""
    task = cfg.task
    train = subset(load(task.data, Path(cfg.data_dir), train=True), task.data.train_size, task.data.subset_seed)
    train = mislabelled(train, task.data.label_noise, task.model.num_classes, task.data.subset_seed)
    test = load(task.data, Path(cfg.data_dir), train=False)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return F.cross_entropy(network(images), labels, label_smoothing=task.label_smoothing)

    return Workload(
        # Channels last is faster for convolutions on a CPU and on tensor cores.
        model=model(task).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        batch_at=batches(train, task.data, task.batch_size, cfg.seed, device),
        loss=loss,
        evaluate=accuracy(test, task.data, device),
        metric=Metric("top1_accuracy", "%", "higher"),
        data=digest(task.data.name, Path(cfg.data_dir)),
    )


def model(task: ResNet18Task) -> nn.Module:
    """Return the initialized model of a task."""
    return ResNet18(task.model.num_classes, task.model.width, task.model.in_channels)


def accuracy(
    test: Images, cfg: ArrayData, device: torch.device, batch_size: int = 1000
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function for top-1 accuracy in percent on the test set and its halves, in evaluation mode."""
    images, labels, normalize = test.images.to(device), test.labels.to(device), normalizer(cfg, device)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        model.eval()
        right = torch.empty(len(labels), dtype=torch.bool, device=device)
        for start in range(0, len(labels), batch_size):
            chosen = slice(start, start + batch_size)
            right[chosen] = model(normalize(images[chosen])).argmax(1) == labels[chosen]
        return with_halves("top1_accuracy", right, 100)

    return evaluate
