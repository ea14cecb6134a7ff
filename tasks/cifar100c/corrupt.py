"""Mini scale's counterpart of CIFAR-100-C, made once.

The benchmark's corruptions are applied to the first test images of Fashion-MNIST. They come from
imagecorruptions-imaug, which scales them with the image where it can. corrupt_tta needs no numba,
but its elastic transformations move up to 45 pixels and are meant for images of 224. Both have
ImageNet-C's strengths, not CIFAR-10-C's milder ones. configs/scale/mini/cifar100c.yaml explains
what this means for the severities that are scored.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.cifar100c.config import CORRUPTIONS, SEVERITIES
from tasks.cifar100c.data import FOLDERS
from tasks.engine.errors import UserError
from tasks.engine.files import disk_full_is_said, one_at_a_time, write_atomically, write_bytes_atomically
from tasks.engine.seeding import derive

NAME = FOLDERS["FashionMNIST"]
SEED = 0
# The library needs 32 pixels, and Fashion-MNIST has 28 on a black background.
PADDING = 2
# These seed a generator of their own from an argument. The others draw from NumPy's global one.
SEEDED = ("impulse_noise", "glass_blur")

Corrupt = Callable[..., np.ndarray]


def make(root: Path, images: np.ndarray, labels: np.ndarray, say: Callable[[str], None]) -> None:
    """Put corrupted copies of images and their labels into `root`. Do nothing if they are complete.

    One process makes them while others wait.

    Args:
        root: the data folder.
        images: uint8 [n, 28, 28].
        labels: [n].
        say: shows one line to the user.

    Raises:
        UserError: the library is missing or the disk is full.
    """
    folder = root / NAME
    recipe = {
        "images": len(images),
        "seed": SEED,
        "source": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
    }
    # Checked without a lock, since the folder may be read-only.
    if finished(folder, recipe):
        return
    with disk_full_is_said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / ".lock"):
            if not finished(folder, recipe):
                say(
                    f"{NAME}: corrupting {len(images):,} images in {len(CORRUPTIONS) * len(SEVERITIES)} ways, a minute or two, once"
                )
                _write(folder, recipe, images, labels)


def finished(folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether the folder holds exactly what this recipe made."""
    try:
        known = json.loads((folder / "manifest.json").read_bytes())
        return known["recipe"] == recipe and all(
            _digest(folder / name) == digest for name, digest in known["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def corrupted(corrupt: Corrupt, images: np.ndarray, name: str) -> np.ndarray:
    """Return corrupted copies, uint8 [5 n, 28, 28, 1], of images uint8 [n, 28, 28].

    A result depends only on the image, its index, `name` and SEED. The library turns a grey image
    into colours with separate noise. One colour is kept, since their mean would have less noise.
    """
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    result = np.empty((len(SEVERITIES), *images.shape, 1), np.uint8)
    state = np.random.get_state()
    try:
        for severity in SEVERITIES:
            for index, image in enumerate(padded):
                seed = derive(SEED, name, severity, index) % 2**32
                np.random.seed(seed)
                made = corrupt(
                    image, severity=severity, corruption_name=name, **({"seed": seed} if name in SEEDED else {})
                )
                result[severity - 1, index, :, :, 0] = made[PADDING:-PADDING, PADDING:-PADDING, 1]
    finally:
        np.random.set_state(state)
    return result.reshape(-1, *result.shape[2:])


def _write(folder: Path, recipe: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> None:
    corrupt, versions = _library()
    # While these files are missing, the set is incomplete.
    for path in (
        folder / "labels.npy",
        folder / "manifest.json",
        *folder.glob(".*.tmp"),
    ):
        path.unlink(missing_ok=True)
    for name in CORRUPTIONS:
        _save(folder / f"{name}.npy", corrupted(corrupt, images, name))
    digests = {f"{name}.npy": _digest(folder / f"{name}.npy") for name in CORRUPTIONS}
    _save(folder / "labels.npy", np.tile(labels, len(SEVERITIES)))
    digests["labels.npy"] = _digest(folder / "labels.npy")
    content = {"recipe": recipe, "versions": versions, "files": digests}
    write_bytes_atomically(folder / "manifest.json", json.dumps(content, indent=1).encode())


def _save(path: Path, array: np.ndarray) -> None:
    write_atomically(path, lambda file: np.save(file, array))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _library() -> tuple[Corrupt, dict[str, str]]:
    """Return the corrupting function, and the versions of all packages that may change the pixels.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from imagecorruptions import corrupt
    except ImportError as error:  # also if OpenCV lacks a system library
        needed = "needs the package imagecorruptions-imaug; install it with: make setup EXTRAS=corruptions"
        raise UserError(f"{NAME} {needed} ({error})") from error
    names = ("imagecorruptions-imaug", "numba", "numpy", "opencv-python", "pillow", "scikit-image", "scipy")
    return corrupt, {name: importlib.metadata.version(name) for name in names}
