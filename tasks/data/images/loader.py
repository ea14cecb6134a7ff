"""Read batches that depend on (seed, step) alone, ahead of time, in worker processes.

Each process of a run reads only its own rows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from tasks.data.images.labelled import Images
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.launch import launched
from tasks.engine.loading import loader
from tasks.engine.seeding import derive, drawing_from

Batch = tuple[Tensor, Tensor]
Transform = Callable[[Image], Tensor]
Key = tuple[int, int, int]  # step, row in its batch, index of the image


class Augmented(Dataset):
    """The image of a key, augmented with random numbers of (seed, step, row), and its class."""

    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        step, row, index = key
        image, label = self.images[index]
        with drawing_from(derive(self.seed, "augment", step, row)):
            return self.transform(in_colour(image)), label


class Plain(Dataset):
    """Images as they are evaluated, and their classes."""

    def __init__(self, images: Images, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(in_colour(image)), label


def in_colour(image: Image) -> Image:
    """Return the image as RGB, without a copy if it already is."""
    return image if image.mode == "RGB" else image.convert("RGB")


class Rows:
    """A batch of `count` examples that holds only the rows from `first` on. Slices of these rows are tensors."""

    def __init__(self, count: int, first: int, images: Tensor, targets: Tensor) -> None:
        self.count, self.first, self.images, self.targets = count, first, images, targets

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> Batch:
        begin, end = rows.start - self.first, rows.stop - self.first
        if not 0 <= begin <= end <= len(self.images):
            raise IndexError(f"rows {rows.start} to {rows.stop} are another process's")
        return self.images[begin:end], self.targets[begin:end]


class ReadAhead:
    """Read the examples of steps, with `workers` processes reading the next steps ahead.

    at(step) returns the examples of keys(step), stacked. Reading ahead requires consecutive steps.
    Steps from `last` on are read when they are asked for. The result does not depend on the number
    of workers.
    """

    def __init__(
        self, examples: Dataset, keys: Callable[[int], list[Key]], last: int, workers: int, device: torch.device
    ) -> None:
        self.examples, self.keys, self.last, self.workers, self.device = examples, keys, last, workers, device
        self._next = -1
        self._batches: Iterator[Any] = iter(())

    def at(self, step: int) -> Batch:
        if step != self._next or step >= self.last:
            self._batches = self._from(step)
        images, labels = next(self._batches)
        self._next = step + 1
        return images, labels

    def _from(self, step: int) -> Iterator[Any]:
        steps = range(step, max(self.last, step + 1))
        return loader(self.examples, self.workers, self.device, batch_sampler=(self.keys(s) for s in steps))


def own_part(count: int, size: int) -> tuple[int, int]:
    """Return the first row of this process's part of a global batch, and the row after its last.

    Args:
        count: number of training images.
        size: examples in the global batch.

    Raises:
        UserError: there are fewer images than a batch has.
    """
    if count < size:
        raise UserError(f"the data has {count} training images, fewer than task.batch_size={size}")
    launch = launched()
    return launch.rank * size // launch.world, (launch.rank + 1) * size // launch.world


def reading(
    images: Images,
    transform: Transform,
    rows: Sequence[int],
    order: Callable[[int], Tensor],
    cfg: Config,
    device: torch.device,
) -> Callable[[int], Batch]:
    """Return `read(step)`: the images of `rows` of a batch, float32, and their classes, on `device`.

    `order(step)` gives the indices of the batch's images.
    """

    def keys(step: int) -> list[Key]:
        indices = order(step)
        return [(step, row, int(indices[row])) for row in rows]

    ahead = ReadAhead(Augmented(images, transform, cfg.seed), keys, cfg.num_steps, cfg.loader_workers, device)

    def read(step: int) -> Batch:
        pixels, labels = ahead.at(step)
        return pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return read


def in_order(
    images: Images, transform: Transform, batch_size: int, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Yield all images, transformed to float32, and their classes on `device`, `batch_size` at a time."""
    plain = Plain(images, transform)
    for pixels, labels in loader(plain, workers, device, batch_size=batch_size):
        yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
