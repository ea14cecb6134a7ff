"""Draw small data sets at random, in the files of CIFAR-100 and in the three forms of ImageNet.

Real ImageNet has grey images, one in CMYK and one PNG among its JPEG files. So have these.
"""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.data.downloads import import_datasets
from tasks.data.images.labelled import FOLDERS, SPLITS
from tasks.data.images.prepare import CLASSES
from tasks.engine import fake
from tasks.engine.files import write_bytes_atomically

CIFAR_FOLDER = "cifar-100-python"
CIFAR_IMAGES = {"train": 200, "test": 100}
PER_CLASS = 1  # of ImageNet, in each split
SHARD = 250  # images of ImageNet in a shard


@fake.once("CIFAR100")
def cifar100(root: Path) -> None:
    """Write torchvision's `cifar-100-python`: pickles of two splits, and of the classes' names."""
    folder, draw = fake.begin(root, CIFAR_FOLDER), np.random.default_rng(0)
    names: dict[str, Any] = {
        "fine_label_names": [f"fine_{number}" for number in range(100)],
        "coarse_label_names": [f"coarse_{number}" for number in range(20)],
    }
    contents = {"meta": names}
    for split, count in CIFAR_IMAGES.items():
        labels = [number % 100 for number in range(count)]
        contents[split] = {
            "filenames": [f"fake_s_{number:06}.png" for number in range(count)],
            "batch_label": f"{split}ing batch 1 of 1",
            "fine_labels": labels,
            "coarse_labels": [label // 5 for label in labels],
            "data": draw.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8),
        }
    md5 = {}
    for file, content in contents.items():
        pickled = pickle.dumps(content, protocol=2)  # as published
        md5[file] = hashlib.md5(pickled).hexdigest()
        write_bytes_atomically(folder / file, pickled)
    fake.end(root, "CIFAR100", {"md5": md5}, folder)


@fake.once("ImageNet")
def imagenet(root: Path) -> None:
    """Write ImageNet as folders of images, with the owner's names."""
    folder = fake.begin(root, FOLDERS["ImageNet"])
    for split in SPLITS:
        for name, label, content in _images(split):
            place = folder / split / _wnid(label)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.JPEG").write_bytes(content)
    fake.end(root, "ImageNet", _counts(), folder)


@fake.once("ImageNetParquet")
def imagenet_parquet(root: Path) -> None:
    """Write the shards of ILSVRC/imagenet-1k on the Hugging Face hub, as the package `datasets` writes them.

    Raises:
        UserError: the package is not installed.
    """
    datasets = import_datasets("ImageNetParquet")
    datasets.disable_progress_bars()
    folder = fake.begin(root, FOLDERS["ImageNetParquet"])
    (folder / "data").mkdir(exist_ok=True)
    classes = datasets.ClassLabel(names=[_wnid(label) for label in range(CLASSES)])
    features = datasets.Features({"image": datasets.Image(), "label": classes})
    for split, published in (("train", "train"), ("val", "validation")):
        rows = list(_images(split))
        shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
        for number, shard in enumerate(shards):
            columns = {
                "image": [{"bytes": content, "path": f"{name}.JPEG"} for name, _, content in shard],
                "label": [label for _, label, _ in shard],
            }
            path = folder / "data" / f"{published}-{number:05}-of-{len(shards):05}.parquet"
            datasets.Dataset.from_dict(columns, features).to_parquet(str(path))
    fake.end(root, "ImageNetParquet", _counts(), folder)


@fake.once("ImageNetWebDataset")
def imagenet_webdataset(root: Path) -> None:
    """Write the shards of timm/imagenet-1k-wds: tar files of <key>.jpg, <key>.cls and <key>.json."""
    folder = fake.begin(root, FOLDERS["ImageNetWebDataset"])
    for split, published in (("train", "train-{:04}"), ("val", "validation-{:02}")):
        rows = list(_images(split))
        for number, start in enumerate(range(0, len(rows), SHARD)):
            with tarfile.open(folder / f"imagenet1k-{published.format(number)}.tar", "w") as shard:
                for name, label, content in rows[start : start + SHARD]:
                    about = json.dumps({"label": label, "filename": f"{name}.JPEG"}).encode()
                    for ending, part in (("cls", str(label).encode()), ("jpg", content), ("json", about)):
                        member = tarfile.TarInfo(f"{name}.{ending}")
                        member.size = len(part)
                        shard.addfile(member, io.BytesIO(part))
    fake.end(root, "ImageNetWebDataset", _counts(), folder)


def _counts() -> dict[str, int]:
    return dict.fromkeys(SPLITS, PER_CLASS * CLASSES)


def _wnid(label: int) -> str:
    """Return a WordNet id. Their order is the classes' order."""
    return f"n{10_000_000 + label}"


def _images(split: str) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, class and the bytes of each image file of a split."""
    draw = np.random.default_rng(SPLITS.index(split))
    for number in range(PER_CLASS * CLASSES):
        label = number % CLASSES
        name = f"{_wnid(label)}_{number}" if split == "train" else f"ILSVRC2012_val_{number + 1:08}"
        yield name, label, _file(draw, number)


def _file(draw: np.random.Generator, number: int) -> bytes:
    """Return the bytes of a small image: of every 50, one is grey and one CMYK. The first is PNG."""
    height, width = draw.integers(40, 80, 2)
    small = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((int(width), int(height)))
    mode = {1: "L", 2: "CMYK"}.get(number % 50, "RGB")
    file = io.BytesIO()
    image.convert(mode).save(file, "PNG" if number == 0 else "JPEG")
    return file.getvalue()
