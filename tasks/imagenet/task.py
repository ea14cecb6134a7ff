"""Build the workload: DeiT or ResNet-50 on ImageNet, or a tiny one on Fashion-MNIST (mini scale)."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.data.images.labelled import Images, classes_of, digest, load
from tasks.data.images.loader import Batch, in_order
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.halves import with_halves
from tasks.engine.workload import Metric, Work, Workload
from tasks.imagenet.config import ImagenetTask
from tasks.imagenet.data import batches
from tasks.imagenet.model import build as build_model
from tasks.imagenet.model import check as check_model
from tasks.models.flops import flops_per_image
from tasks.recipes.timm import criterion, eval_transform


def build(cfg: Config[ImagenetTask], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`.

    Raises:
        UserError: the data set is not in `cfg.data_dir`, or timm's model does not fit it.
    """
    task, root = cfg.task, Path(cfg.data_dir)
    train, validation = (load(task.data, root, split) for split in ("train", "val"))
    for images in (train, validation):
        if (found := classes_of(images) or 0) > task.model.num_classes:
            raise UserError(
                f"{task.data.name} in {root} has {found} classes, more than task.model.num_classes={task.model.num_classes}"
            )
    network, of_soft_labels = model(task), criterion(task.loss)
    check_model(network, task.model, task.data.image_size)
    if task.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        images, targets = batch
        return of_soft_labels(network(images).float(), targets)

    return Workload(
        model=network,
        batch_at=batches(train, cfg, device),
        loss=loss,
        evaluate=accuracy(validation, cfg, device),
        metric=Metric("top1_accuracy", "%", "higher"),
        blocks=list(network.blocks) if hasattr(network, "blocks") else None,  # type: ignore[arg-type]
        # For MFU, which is known only for some GPUs.
        work=Work(
            "image",
            task.batch_size,
            flops_per_image(network, task.data.image_size) if device.type == "cuda" else None,
        ),
        data=digest(task.data.name, root),
    )


def model(task: ImagenetTask) -> nn.Module:
    """Return the initialized model of a task.

    Raises:
        UserError: timm cannot make it, or it is for images of another size.
    """
    network, size = build_model(task.model), task.data.image_size
    patches = getattr(network, "patch_embed", None)
    own = patches.img_size[0] if getattr(patches, "strict_img_size", False) else size  # type: ignore[union-attr,index]
    if own != size:
        raise UserError(
            f"task.data.image_size={size} is not the size of {task.model.timm}, {own}; "
            f"set task.model.arguments.img_size={size} too"
        )
    return network


def accuracy(
    images: Images, cfg: Config[ImagenetTask], device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function for top-1 and top-5 accuracy in percent, and mean cross-entropy.

    All are taken over all validation images. Top-1 accuracy is also given for each half.
    """
    five = min(5, cfg.task.model.num_classes)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        model.eval()
        first, among, losses = [], [], []
        transform, size = eval_transform(cfg.task.data), cfg.task.eval_batch_size
        for pixels, labels in in_order(images, transform, size, cfg.loader_workers, device):
            if cfg.task.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            logits = model(pixels).float()
            right = logits.topk(five).indices == labels[:, None]
            first.append(right[:, 0])
            among.append(right.any(1))
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
        others = {"top5_accuracy": 100 * _mean(among), "validation_loss": _mean(losses)}
        return with_halves("top1_accuracy", torch.cat(first), 100) | others

    return evaluate


def _mean(values: list[Tensor]) -> float:
    return torch.cat(values).double().mean().item()
