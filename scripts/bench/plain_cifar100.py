"""A plain training loop of torch and torchvision, to compare the engine's loop with.
It has no logs, checkpoints, resuming or bounds. `augment=True` crops and flips with torchvision's
transforms, image by image, as in PyTorch's examples. `augment=False` is the fastest possible loop:
it indexes batches out of one normalized tensor and does nothing else to them.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from tasks.engine.config import Config
from tasks.models.resnet18 import ResNet18
from tasks.recipes.config import ResNet18Task


def train(cfg: Config[ResNet18Task], turn: Callable[[], None], augment: bool) -> None:
    """Train the model of a cifar100 configuration on the CPU. Calls `turn` before the first step and after each."""
    task = cfg.task
    torch.manual_seed(cfg.seed)
    model = ResNet18(task.model.num_classes, task.model.width, task.model.in_channels)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, betas=task.betas, eps=task.eps)
    warm_up = task.schedule.warmup_steps

    def factor(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        done = (step - warm_up) / (cfg.num_steps - warm_up)
        return task.schedule.final_factor + (1 - task.schedule.final_factor) * 0.5 * (1 + math.cos(math.pi * done))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    batches = _augmented(cfg) if augment else _plain(cfg)
    turn()
    for _ in range(cfg.num_steps):
        images, labels = next(batches)
        loss = cross_entropy(model(images), labels, label_smoothing=task.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        turn()


def _images(cfg: Config[ResNet18Task]) -> tuple[Tensor, Tensor]:
    """Return uint8 images [n, channels, height, width] of the configured size, and labels [n]."""
    data = getattr(datasets, cfg.task.data.name)(root=cfg.data_dir, train=True)
    images = torch.as_tensor(data.data)[: cfg.task.data.train_size]
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if cfg.task.data.downsample > 1:
        images = avg_pool2d(images.float(), cfg.task.data.downsample).round().to(torch.uint8)
    return images.contiguous(), torch.as_tensor(data.targets)[: len(images)]


def _augmented(cfg: Config[ResNet18Task]) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = _images(cfg)
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(images.shape[-1], cfg.task.data.crop_padding, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(list(cfg.task.data.mean), list(cfg.task.data.std)),
        ]
    )
    examples = [(image, int(label)) for image, label in zip(images, labels, strict=True)]

    def collate(chosen: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        return torch.stack([transform(image) for image, _ in chosen]), torch.tensor([label for _, label in chosen])

    loader: DataLoader = DataLoader(examples, cfg.task.batch_size, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    while True:
        yield from loader


def _plain(cfg: Config[ResNet18Task]) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = _images(cfg)
    mean, std = (torch.tensor(list(values)).view(1, -1, 1, 1) for values in (cfg.task.data.mean, cfg.task.data.std))
    normalized = (images.float() / 255 - mean) / std
    while True:
        for chosen in torch.randperm(len(labels)).split(cfg.task.batch_size):
            yield normalized[chosen], labels[chosen]
