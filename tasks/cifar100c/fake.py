"""Fake data in the files of CIFAR-100 and CIFAR-100-C."""

import pickle
from pathlib import Path

import numpy as np

from tasks.cifar100c.config import SEVERITIES
from tasks.cifar100c.data import FOLDERS, SHAPES
from tasks.cifar100c.prepare import FILES
from tasks.data.images import fake as images
from tasks.engine import fake


@fake.once("CIFAR-100-C")
def corrupted(root: Path) -> None:
    """Write CIFAR-100's files, and CIFAR-100-C's arrays of its test images."""
    images.cifar100(root)
    folder, draw = fake.begin(root, FOLDERS["CIFAR100"]), np.random.default_rng(0)
    labels = pickle.loads((root / images.CIFAR_FOLDER / "test").read_bytes())["fine_labels"]
    for file in FILES[:-1]:
        np.save(
            folder / file, draw.integers(0, 256, (len(SEVERITIES) * len(labels), *SHAPES["CIFAR100"]), dtype=np.uint8)
        )
    np.save(folder / FILES[-1], np.tile(np.array(labels, np.uint8), len(SEVERITIES)))
    fake.end(root, "CIFAR-100-C", {"images": len(labels)}, folder)


FAKES = {"CIFAR100": corrupted}
