"""Images cropped as in open_clip, in batches that depend on (seed, step) alone."""

from collections.abc import Callable

import open_clip
import torch

from tasks.clip.config import ClipTask
from tasks.data.images.config import LabelledData
from tasks.data.images.labelled import Images
from tasks.data.images.loader import Rows, Transform, own_part, reading
from tasks.engine.batching import epoch_order
from tasks.engine.config import Config
from tasks.recipes.config import Crop


def train_transform(data: LabelledData, augment: Crop) -> Transform:
    """Return open_clip's training transform to float32 [3, size, size]: a resized crop and normalization, no flip."""
    return open_clip.image_transform(
        data.image_size,
        is_train=True,
        mean=tuple(data.mean),
        std=tuple(data.std),
        interpolation=data.interpolation,
        aug_cfg={"scale": tuple(augment.crop_scale)},
    )


def batches(images: Images, cfg: Config[ClipTask], device: torch.device) -> Callable[[int], Rows]:
    """Return `batch_at(step)`: this process's part of the global batch on `device`.

    Images are float32 and classes int64.

    Raises:
        UserError: there are fewer images than a batch has.
    """
    task, size = cfg.task, cfg.task.batch_size
    begin, end = own_part(len(images), size)
    order = epoch_order(len(images), size, cfg.seed, drop_last=True)
    read = reading(images, train_transform(task.data, task.augment), range(begin, end), order, cfg, device)
    return lambda step: Rows(size, begin, *read(step))
