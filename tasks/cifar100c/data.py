"""Corrupted test images on disk, in CIFAR-100-C's layout: `<root>/<set>/<corruption>.npy` and labels.npy.

An array is uint8 [5 n, height, width, channels]: n test images at severity 1, then the same at
severities 2 to 5. labels.npy has their 5 n labels. It is written last, so a set that has it is
complete.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.cifar100c.config import SEVERITIES, Cifar100cTask
from tasks.data.images.arrays import load as load_clean
from tasks.engine.errors import UserError

# The clean set's name, and the folder of its corrupted test images.
FOLDERS = {"CIFAR100": "CIFAR-100-C", "FashionMNIST": "FashionMNIST-C"}
# Height, width and channels of one test image on disk.
SHAPES = {"CIFAR100": (32, 32, 3), "FashionMNIST": (28, 28, 1)}


@dataclass(frozen=True)
class Corrupted:
    """Corrupted test images.

    Attributes:
        files: corruption -> uint8 [5 n, height, width, channels], memory-mapped.
        labels: int64 [count], of the images that are scored.
    """

    files: dict[str, np.ndarray]
    severities: Sequence[int]
    labels: Tensor

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images uint8 [at most size, channels, height, width] and their labels.

        Each corruption comes severity by severity.
        """
        count = len(self.labels)
        for file in self.files.values():
            for severity in self.severities:
                images = file[(severity - 1) * (len(file) // len(SEVERITIES)) :][:count]
                for start in range(0, count, size):
                    pixels = torch.from_numpy(np.array(images[start : start + size]))
                    yield pixels.permute(0, 3, 1, 2), self.labels[start : start + size]


def load(cfg: Cifar100cTask, root: Path) -> Corrupted:
    """Return the task's corrupted test images.

    Raises:
        UserError: files are missing or have another layout, there are fewer images, or labels
            differ from the clean set's.
    """
    wanted, name = cfg.corruptions, cfg.data.name
    folder, fix = root / FOLDERS[name], f"python scripts/prepare_data.py cifar100c {name} data_dir={root}"
    if not (folder / "labels.npy").exists():
        raise UserError(f"{FOLDERS[name]} is not in {root}; prepare it with: {fix}")
    clean, labels = load_clean(cfg.data, root, train=False).labels.numpy(), _open(folder, "labels", fix)
    n = labels.size // len(SEVERITIES)
    if not n or not np.array_equal(labels, np.tile(clean[:n], len(SEVERITIES))):
        raise UserError(
            f"{folder / 'labels.npy'} does not hold the labels of {name}'s test images, five times; delete {folder}, then {fix}"
        )
    count = n if wanted.images is None else wanted.images
    if count > n:
        raise UserError(f"task.corruptions.images={wanted.images} must lie in 1..{n}, the test images of {folder}")
    files = {corruption: _open(folder, corruption, fix) for corruption in wanted.names}
    shape = (len(labels), *SHAPES[name])
    for corruption, file in files.items():
        if file.dtype != np.uint8 or file.shape != shape:
            found = f"{file.dtype} {list(file.shape)}"
            raise UserError(
                f"{folder / corruption}.npy is {found}, not uint8 {list(shape)}; delete {folder}, then {fix}"
            )
    return Corrupted(files, wanted.severities, torch.from_numpy(labels[:count].astype(np.int64)))


def _open(folder: Path, name: str, fix: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    if not path.exists():
        raise UserError(
            f"{path.name} is not in {folder}; take it out of task.corruptions.names, or delete {folder}, then {fix}"
        )
    try:
        return np.lib.format.open_memmap(path, mode="r")
    # Another format, or shorter than its header says.
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {folder}, then {fix}") from error
