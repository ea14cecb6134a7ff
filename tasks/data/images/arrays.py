"""Hold images in memory, and make the training batch of a step from (seed, step) alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.data.images.config import ArrayData
from tasks.data.images.torchvision_sets import reader_of
from tasks.engine.batching import epoch_order
from tasks.engine.errors import UserError
from tasks.engine.seeding import generator_for

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """Images uint8 [n, channels, height, width] without normalization, and labels int64 [n]."""

    images: Tensor
    labels: Tensor


def load(cfg: ArrayData, root: Path, train: bool) -> Images:
    """Return the train or test split of `cfg.name` from `root`, at the configured size.

    torchvision reads the files. Grey images are repeated to the number of channels in `cfg.mean`.
    `cfg.downsample` averages blocks of pixels.

    Raises:
        UserError: the files are missing (`prepare_data.py` downloads them).
    """
    data = _read(cfg.name, root, train)
    return Images(at_size(data.images, cfg).contiguous(), data.labels)


def at_size(images: Tensor, cfg: ArrayData) -> Tensor:
    """Return images uint8 [n, channels, height, width] as the model takes them: downsampled, grey ones repeated."""
    if cfg.downsample > 1:
        images = F.avg_pool2d(images.float(), cfg.downsample).round().to(torch.uint8)
    return images.expand(-1, len(cfg.mean), -1, -1)


# A sweep's worker process reads the files only once.
@lru_cache(maxsize=4)
def _read(name: str, root: Path, train: bool) -> Images:
    try:
        data = reader_of(name, root)(root=root, train=train, download=False)
    except RuntimeError as error:
        raise UserError(
            f"{name} is not in {root}; prepare it with: python scripts/prepare_data.py cifar100 {name}"
        ) from error
    images = torch.as_tensor(data.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Images(images.contiguous(), torch.as_tensor(data.targets, dtype=torch.int64))


def subset(data: Images, size: int | None, seed: int) -> Images:
    """Return `size` images (None: all), drawn without replacement by a generator of `seed`."""
    if size is None:
        return data
    if not 1 <= size <= len(data.labels):
        raise UserError(f"task.data.train_size={size} must lie in 1..{len(data.labels)}")
    chosen = torch.randperm(len(data.labels), generator=generator_for(seed, "subset"))[:size]
    return Images(data.images[chosen], data.labels[chosen])


def mislabelled(data: Images, share: float, num_classes: int, seed: int) -> Images:
    """Return the images with a `share` of their labels replaced by wrong ones, drawn by a generator of `seed`."""
    if share == 0:
        return data
    count, generator = round(share * len(data.labels)), generator_for(seed, "label_noise")
    chosen = torch.randperm(len(data.labels), generator=generator)[:count]
    labels = data.labels.clone()
    labels[chosen] = (labels[chosen] + torch.randint(1, num_classes, (count,), generator=generator)) % num_classes
    return Images(data.images, labels)


def crop_and_flip(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Crop after reflect padding, then flip half of the images, at random for each. Keep shape and dtype."""
    n, _, height, width = images.shape
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    index = torch.arange(n)[:, None, None]
    # Advanced indexing on both sides of the channel slice moves the channels to the end.
    cropped = padded[
        index.to(images.device), :, rows[:, :, None].to(images.device), columns[:, None, :].to(images.device)
    ]
    return cropped.permute(0, 3, 1, 2).contiguous()


def normalizer(cfg: ArrayData, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 [0, 255] to float32, normalized by the data set's mean and std per channel."""
    mean = torch.tensor(cfg.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(cfg.std, device=device).view(1, -1, 1, 1)
    return lambda images: (images.float() / 255 - mean) / std


def batches(data: Images, cfg: ArrayData, batch_size: int, seed: int, device: torch.device) -> Callable[[int], Batch]:
    """Return `batch_at(step)`: augmented, normalized images float32 and their labels, on `device`."""
    images, labels = data.images.to(device), data.labels.to(device)
    indices, normalize = epoch_order(len(data.labels), batch_size, seed), normalizer(cfg, device)

    def batch_at(step: int) -> Batch:
        chosen = indices(step).to(device)
        augmented = crop_and_flip(images[chosen], cfg.crop_padding, generator_for(seed, "augment", step))
        return normalize(augmented), labels[chosen]

    return batch_at
