"""Get clean and corrupted images.

These are CIFAR-100 and CIFAR-100-C, or Fashion-MNIST and corruptions of its test images.
"""

import json
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from tasks.cifar100c import corrupt
from tasks.cifar100c.config import CORRUPTIONS, EXTRA, SEVERITIES
from tasks.cifar100c.data import FOLDERS, SHAPES
from tasks.data.downloads import giving_up_after
from tasks.data.images import torchvision_sets as clean
from tasks.engine import fake, verified
from tasks.engine.errors import UserError, one_line
from tasks.engine.files import disk_full_is_said, write_atomically

DATA_SETS = clean.DATA_SETS
MINI = Path(__file__).parents[2] / "configs" / "scale" / "mini" / "cifar100c.yaml"
ARCHIVE = "CIFAR-100-C.tar"
URL = f"https://zenodo.org/records/3555552/files/{ARCHIVE}"
MD5 = "11f0ed0f1191edbf9fa23466ae6021d3"  # from that record
IMAGES = 10_000
NEEDED = 6 * 10**9  # bytes: the archive and its content
# labels.npy is last, so a set that has it is complete.
FILES = (*(f"{name}.npy" for name in CORRUPTIONS + EXTRA), "labels.npy")


def prepare(name: str, root: Path, say: Callable[[str], None]) -> None:
    """Put the data set `name` of DATA_SETS and its corrupted test images into `root`, if missing.

    Raises:
        UserError: no source can be reached, the corrupting library is missing, or the disk is too
            small.
    """
    clean.prepare(name, root, say)
    if name == "CIFAR100":
        with disk_full_is_said(root):
            published(root, say)
        return
    import torchvision.datasets as datasets

    test = datasets.FashionMNIST(root, train=False)
    count: int = OmegaConf.select(OmegaConf.load(MINI), "task.corruptions.images")
    corrupt.make(root, test.data[:count].numpy(), test.targets[:count].numpy(), say)


def digest(name: str, root: Path) -> str:
    """Return a digest of clean and corrupted images, after comparing them with the recorded checksums.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = root / FOLDERS[name]
    fix = f"prepare it with: python scripts/prepare_data.py cifar100c {name} data_dir={root}"
    if name == "CIFAR100":
        corrupted = verified.verify_remembered(folder, FILES, fix)
    else:
        corrupted = verified.verify(folder, json.loads((folder / "manifest.json").read_bytes())["files"], fix)
    return verified.overall({"clean": clean.digest(name, root), "corrupted": str(corrupted)})


def published(root: Path, say: Callable[[str], None]) -> None:
    """Download and unpack CIFAR-100-C as published. Use and verify an archive that is already in `root`.

    Raises:
        UserError: it can't be downloaded, the archive is a different one, or there is no space.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    folder, archive = root / FOLDERS["CIFAR100"], root / ARCHIVE
    if is_complete(folder, (fake.facts(root, "CIFAR-100-C") or {"images": IMAGES})["images"]):
        if verified.verify_remembered(folder, FILES, f"delete {folder}, then run the same command again") is None:
            verified.remember(folder, FILES)
        return
    there = archive.stat().st_size if archive.exists() else 0
    if (free := shutil.disk_usage(root).free) < NEEDED - there:
        room = f"needs {NEEDED / 1e9:.0f} GB on the disk of {root}, where {free / 1e9:.1f} GB are free"
        raise UserError(f"CIFAR-100-C {room}; free some, or choose another data_dir")
    if not check_integrity(str(archive), MD5):
        say(f"CIFAR-100-C: 2.9 GB, downloaded into {root}; 6 GB on disk, 3 GB once {ARCHIVE} is deleted")
        try:
            with giving_up_after():
                download_url(URL, root, ARCHIVE, MD5)
        except (OSError, RuntimeError) as error:
            reason = one_line(error)
            raise UserError(
                f"CIFAR-100-C cannot be downloaded ({reason}); put {ARCHIVE} of {URL} into {root}"
            ) from error
    unpack(archive, folder)


def is_complete(folder: Path, images: int = IMAGES) -> bool:
    """Return whether all files are there, with the right shapes and as long as their headers say."""
    shape = (len(SEVERITIES) * images, *SHAPES["CIFAR100"])
    try:
        found = {name: np.lib.format.open_memmap(folder / name, mode="r").shape for name in FILES}
    except (OSError, ValueError):
        return False
    return found == dict.fromkeys(FILES, shape) | {"labels.npy": shape[:1]}


def unpack(archive: Path, folder: Path) -> None:
    """Write each file whole or not at all, or raise UserError if the archive lacks one."""
    folder.mkdir(exist_ok=True)
    for path in (folder / "labels.npy", *folder.glob(".*.tmp")):
        path.unlink(missing_ok=True)
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        if missing := [name for name in FILES if name not in members]:
            raise UserError(f"{archive} lacks {', '.join(missing)}; delete it, then run the same command again")
        for name in FILES:
            source: Any = tar.extractfile(members[name])
            write_atomically(folder / name, partial(shutil.copyfileobj, source))
    verified.remember(folder, FILES)
