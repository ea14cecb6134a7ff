"""Build the workload: CLIP's ViT-B/32 fine-tuned on ImageNet, or a small CLIP on Fashion-MNIST (mini scale)."""

import copy
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.clip import pretrained, small, wise_ft, zero_shot
from tasks.clip.config import ClipTask, SmallClip
from tasks.clip.data import batches
from tasks.clip.model import Classifier, Head
from tasks.data.images.labelled import Images, classes_of, digest, load
from tasks.data.images.loader import Batch, in_order
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.halves import with_halves
from tasks.engine.workload import Metric, Work, Workload
from tasks.models.flops import flops_per_image
from tasks.recipes.timm import eval_transform


def build(cfg: Config[ClipTask], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`.

    Raises:
        UserError: weights or images are not in `cfg.data_dir`, or a setting is wrong.
    """
    task, root = cfg.task, Path(cfg.data_dir)
    alphas, names, templates = (
        wise_ft.alphas_of(cfg),
        zero_shot.class_names(task.zero_shot),
        zero_shot.templates(task.zero_shot),
    )
    clip = _clip(cfg, root).to(device).eval()
    if clip.visual.image_size != (task.data.image_size,) * 2:
        raise UserError(f"task.data.image_size={task.data.image_size} is not the model's {clip.visual.image_size[0]}")
    train, validation = _images(task, root, len(names))
    start = Classifier(clip.visual, zero_shot.head(clip, names, templates, device)).requires_grad_(False)
    model = copy.deepcopy(start).requires_grad_(True)
    if task.head == "random":
        model.head = Head(clip.visual.output_dim, len(names), normalize=False)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        images, classes = batch
        return F.cross_entropy(model(images).float(), classes)

    def at_end(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Classifier)
        batches = in_order(validation, eval_transform(task.data), task.eval_batch_size, cfg.loader_workers, device)
        found = wise_ft.accuracies(start, model.eval(), sorted({0.0, *alphas}), batches)
        return {"zero_shot_accuracy": found[0.0]} | {f"wise_ft_{alpha}": found[alpha] for alpha in alphas}

    return Workload(
        model=model,
        batch_at=batches(train, cfg, device),
        loss=loss,
        evaluate=accuracy(validation, cfg, device),
        metric=Metric("top1_accuracy", "%", "higher"),
        blocks=list(model.tower.get_submodule("transformer.resblocks").children()),
        # For MFU, which is known only for some GPUs.
        work=Work(
            "image",
            task.batch_size,
            flops_per_image(model.tower, task.data.image_size) if device.type == "cuda" else None,
        ),
        at_end=at_end,
        data=digest(task.data.name, root),
    )


def _clip(cfg: Config[ClipTask], root: Path) -> open_clip.CLIP:
    """Return the pre-trained model with both towers."""
    task = cfg.task
    if task.small is not None and task.checkpoint is None:
        _check_disjoint(task, task.small, root)
        return small.trained(root, task.small, cfg.quiet)
    path = pretrained.kept_at(root, task.architecture) if task.checkpoint is None else Path(task.checkpoint)
    return pretrained.load(task.architecture, path)


def _check_disjoint(task: ClipTask, clip: SmallClip, root: Path) -> None:
    """Raise UserError if the small CLIP would train on images of the fine-tuning."""
    count = len(small.everything(root)[0])
    size = count if task.data.train_size is None else task.data.train_size
    together = clip.subset_seed != task.data.subset_seed or size + clip.images > count
    if task.data.name == small.DATA and together:
        raise UserError(
            f"task.small.images={clip.images} and task.data.train_size={task.data.train_size} must be disjoint parts of {count} images: "
            f"together at most as many, and drawn with the same subset_seed"
        )


def _images(task: ClipTask, root: Path, classes: int) -> tuple[Images, Images]:
    """Return training and validation images, or raise UserError if they don't have `classes` classes."""
    train, validation = (load(task.data, root, split) for split in ("train", "val"))
    for images in (train, validation):
        if (found := classes_of(images) or classes) != classes:
            raise UserError(
                f"{task.data.name} in {root} has {found} classes, and task.zero_shot.classes names {classes}"
            )
    return train, validation


def accuracy(images: Images, cfg: Config[ClipTask], device: torch.device) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function for top-1 accuracy in percent, also of each half, and mean cross-entropy.

    All are taken over all validation images.
    """

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        model.eval()
        right, losses = [], []
        transform, size = eval_transform(cfg.task.data), cfg.task.eval_batch_size
        for pixels, classes in in_order(images, transform, size, cfg.loader_workers, device):
            logits = model(pixels).float()
            right.append(logits.argmax(1) == classes)
            losses.append(F.cross_entropy(logits, classes, reduction="none"))
        return with_halves("top1_accuracy", torch.cat(right), 100) | {
            "validation_loss": torch.cat(losses).double().mean().item()
        }

    return evaluate
