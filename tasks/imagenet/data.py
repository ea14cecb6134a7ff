"""Augmented and mixed images in batches that depend on (seed, step) alone."""

from collections.abc import Callable

import torch

from tasks.data.images.labelled import Images
from tasks.data.images.loader import Rows, own_part, reading
from tasks.engine.batching import epoch_order
from tasks.engine.config import Config
from tasks.imagenet.config import ImagenetTask
from tasks.recipes.timm import Mixing, train_transform


def batches(images: Images, cfg: Config[ImagenetTask], device: torch.device) -> Callable[[int], Rows]:
    """Return `batch_at(step)`: this process's part of the global batch, mixed, on `device`.

    Images and soft labels are float32.

    Raises:
        UserError: there are fewer images than a batch has.
    """
    task, size = cfg.task, cfg.task.batch_size
    begin, end = own_part(len(images), size)
    mixing = Mixing(task.augment, task.model.num_classes, size, cfg.seed)
    rows = mixing.rows(begin, end)
    own = slice(rows.index(begin), rows.index(begin) + end - begin)
    order = epoch_order(len(images), size, cfg.seed, drop_last=True, repeats=task.augment.repeats)
    read = reading(images, train_transform(task.data, task.augment), rows, order, cfg, device)

    def batch_at(step: int) -> Rows:
        pixels, targets = mixing.mix(step, rows, *read(step))
        if task.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return Rows(size, begin, pixels[own], targets[own])

    return batch_at
