"""The small CLIP that replaces OpenAI's at mini scale, kept in the data folder.

It is open_clip's model and loss on images and captions.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.optim import Optimizer

from cpr import regularized_groups
from tasks.clip.config import SmallClip
from tasks.clip.model import build_clip
from tasks.data.images.labelled import read
from tasks.engine import kept
from tasks.engine.batching import epoch_order
from tasks.engine.errors import UserError, one_line
from tasks.engine.seeding import generator_for
from tasks.engine.workload import Workload

DATA = "FashionMNIST"
LARGEST_SCALE = math.log(100)  # of the logits, as in CLIP


def trained(root: Path, small: SmallClip, quiet: bool = False) -> open_clip.CLIP:
    """Return the small CLIP on the CPU, training and keeping it first if necessary.

    One process trains while others wait.

    Raises:
        UserError: the images are missing, it can't be built, or the disk is full.
    """
    try:
        model = build_clip(small.shape)
    except Exception as error:  # open_clip checks few of its arguments
        raise UserError(f"task.small.shape: open_clip cannot make a CLIP of it ({one_line(error)})") from error
    path = kept_at(root, small)
    model.load_state_dict(kept.trained(path, small, lambda: _build(root, small), final_factor=0.0, quiet=quiet))
    return model


def kept_at(root: Path, small: SmallClip) -> Path:
    """Return the path of the weights, named by the hash of its configuration and all training images."""
    content = hashlib.sha256(json.dumps(small.model_dump(), sort_keys=True).encode())
    for tensor in everything(root):
        content.update(tensor.numpy().tobytes())
    return root / "clip" / "small" / f"{content.hexdigest()[:16]}.pt"


def pairs(root: Path, small: SmallClip) -> tuple[Tensor, Tensor]:
    """Return images, uint8 [n, height, width], and their classes, int64 [n], of the classes with captions.

    `small.images` of the training images are considered. They are the last ones in the order in
    which tasks/data/images/labelled.py draws the subset for fine-tuning, which takes the first ones.

    Raises:
        UserError: there are fewer images, or too few for a batch.
    """
    images, classes = everything(root)
    if not 1 <= small.images <= len(images):
        raise UserError(f"task.small.images={small.images} must lie in 1..{len(images)}")
    if unknown := set(small.unnamed) - set(small.classes):
        raise UserError(f"task.small.unnamed: {min(unknown)!r} is not one of task.small.classes")
    chosen = subset(len(images), small)
    named = torch.tensor([name not in small.unnamed for name in small.classes])
    chosen = chosen[named[classes[chosen]]]
    if len(chosen) < small.batch_size:
        raise UserError(
            f"task.small: {len(chosen)} images have a caption, fewer than task.small.batch_size={small.batch_size}"
        )
    return images[chosen], classes[chosen]


def subset(count: int, small: SmallClip) -> Tensor:
    """Return which of `count` training images are used here, including those without a caption."""
    return torch.randperm(count, generator=generator_for(small.subset_seed, "subset", "train"))[count - small.images :]


def everything(root: Path) -> tuple[Tensor, Tensor]:
    """Return all training images of Fashion-MNIST, uint8 [n, 28, 28], and their classes, int64 [n]."""
    found: Any = read(DATA, root, "train")
    return found.data, found.targets


def _build(root: Path, small: SmallClip) -> tuple[Workload, Optimizer]:
    """Return a new model with its contrastive loss on images and captions, and AdamW at CLIP's settings."""
    images, classes = pairs(root, small)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (small.mean, small.std))
    sentences = [template.format(name) for name in small.classes for template in small.templates]
    captions = open_clip.tokenize(sentences, small.shape["text_cfg"]["context_length"])
    indices = epoch_order(len(images), small.batch_size, small.seed, drop_last=True)
    contrast = open_clip.ClipLoss()
    model = open_clip.CLIP(**small.shape)

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        rows, count = indices(step), len(small.templates)
        drawn = torch.randint(count, (len(rows),), generator=generator_for(small.seed, "template", step))
        pixels = (images[rows][:, None].float().div(255) - mean) / std
        return pixels, classes[rows] * count + drawn

    def loss(clip: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, chosen = batch
        of_images = clip.encode_image(pixels, normalize=True)
        # All captions there are, fewer than a batch has.
        of_captions = clip.encode_text(captions, normalize=True)
        return contrast(of_images, of_captions[chosen], clip.logit_scale.exp())

    groups = [
        group | {"weight_decay": small.weight_decay if group["regularize"] else 0.0}
        for group in regularized_groups(model)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    optimizer.register_step_post_hook(lambda *_: model.logit_scale.data.clamp_(0, LARGEST_SCALE))
    return Workload(model, batch_at, loss, evaluate=lambda _: {}, metric=None), optimizer
