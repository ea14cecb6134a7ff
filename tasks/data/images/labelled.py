"""Labelled images by index, from folders, shards of parquet or tar files, or Fashion-MNIST (mini scale)."""

from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image
from torch.utils.data import Subset

from tasks.data.downloads import import_datasets, load_table, rows_until_the_end_of_each
from tasks.data.images.config import LabelledData
from tasks.data.images.shards import TarShards, content_of, decoded
from tasks.data.images.torchvision_sets import digest as small_images_digest
from tasks.engine import verified
from tasks.engine.errors import UserError
from tasks.engine.seeding import generator_for
from tasks.engine.terminal import warn

SPLITS = ("train", "val")
# The folder of each data set in data_dir. torchvision puts Fashion-MNIST into a folder of its own.
FOLDERS = {
    "ImageNet": "imagenet",
    "ImageNetParquet": "imagenet-parquet",
    "ImageNetWebDataset": "imagenet-wds",
    "FashionMNIST": ".",
}
# Hugging Face's names. webdataset's own tools write imagenet-val-*.tar.
SHARDS = {
    "ImageNetParquet": {"train": "data/train-*.parquet", "val": "data/validation-*.parquet"},
    "ImageNetWebDataset": {"train": "*-train-*.tar", "val": "*-val*-*.tar"},
}


class Images(Protocol):
    """Pairs of an image and its class, counted from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image, int]: ...


class ParquetShards:
    """Rows of parquet files with the columns `image` (the bytes of a file) and `label`.

    `datasets` copies them once into a memory-mapped Arrow table beside them, so a row is read
    without the rest of its shard. `classes` is the highest class plus one.

    Raises:
        UserError: a shard is damaged, lacks a column, or has images without a class.
    """

    def __init__(self, files: list[Path], folder: Path) -> None:
        table = load_table(
            "ImageNetParquet", "parquet", data_files=[str(file) for file in files], cache_dir=str(folder / "arrow")
        )
        if missing := {"image", "label"} - set(table.column_names):
            raise UserError(f"{files[0]} and the shards beside it have no column {min(missing)}; take ILSVRC's shards")
        datasets = import_datasets("ImageNetParquet")
        self._table = table.cast_column("image", datasets.Image(decode=False))
        self._files, self._ends = files, rows_until_the_end_of_each(files)
        labels = table.unique("label")
        if unlabelled := [label for label in labels if not isinstance(label, int) or label < 0]:
            raise UserError(f"{files[0]} or a shard beside it has the class {unlabelled[0]}; take shards with labels")
        self.classes = max(labels) + 1

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int, /) -> tuple[Image, int]:
        row = self._table[index]
        shard = bisect_right(self._ends, index)
        place = index - (self._ends[shard - 1] if shard else 0)
        content = (row["image"] or {}).get("bytes")  # a row without an image is no image
        return decoded(content, f"the bytes of row {place:,} of {self._files[shard]}"), row["label"]


def of_file(path: str) -> Image:
    """Return the image of a file, or raise UserError if it is not an image."""
    return decoded(content_of(Path(path)), f"the bytes of {path}")


def load(cfg: LabelledData, root: Path, split: str) -> Images:
    """Return a split ("train" or "val") of `cfg.name` in the data folder `root`.

    With `cfg.train_size` or `cfg.val_size`, a generator of `cfg.subset_seed` draws that many images
    without replacement.

    Raises:
        UserError: the data set is missing or has fewer images.
    """
    images, size = read(cfg.name, root, split), cfg.train_size if split == "train" else cfg.val_size
    if size is None:
        return images
    if size > len(images):
        raise UserError(f"task.data.{split}_size={size} must lie in 1..{len(images)}")
    chosen = torch.randperm(len(images), generator=generator_for(cfg.subset_seed, "subset", split))[:size]
    return Subset(images, chosen.tolist())  # type: ignore[arg-type, return-value]


# A sweep's worker process reads the files only once.
@lru_cache(maxsize=4)
def read(name: str, root: Path, split: str) -> Images:
    """Return all images of a split, or raise UserError as `load` does."""
    import torchvision.datasets as datasets

    folder = root / FOLDERS[name]
    try:
        if name == "FashionMNIST":
            return datasets.FashionMNIST(folder, train=split == "train", download=False)
        if name == "ImageNet":
            return _folders(folder, split)
    # No folder, no class in it, or no files of Fashion-MNIST.
    except (FileNotFoundError, RuntimeError) as error:
        raise UserError(_missing(name, root, split)) from error
    files = sorted(folder.glob(SHARDS[name][split]))
    if not files:
        raise UserError(_missing(name, root, split))
    return ParquetShards(files, folder) if name == "ImageNetParquet" else TarShards(files, folder / "index")


def _folders(folder: Path, split: str) -> Images:
    """Return a split's folders of images, in the order of the training set's classes.

    A class that only `train` has keeps its number, and that it has no images here is reported.

    Raises:
        UserError: the split has a class that `train` lacks.
    """
    import torchvision.datasets as datasets

    names, here = (
        sorted(path.name for path in (folder / part).iterdir() if path.is_dir()) for part in ("train", split)
    )
    if unknown := sorted(set(here) - set(names)):
        raise UserError(
            f"{folder / split} has {_listed(unknown)}, which {folder / 'train'} lacks; their names must agree"
        )
    if missing := sorted(set(names) - set(here)):
        warn(f"{folder / split} lacks {_listed(missing)} of {folder / 'train'}")
    if empty := [name for name in here if not any((folder / split / name).iterdir())]:
        raise UserError(f"{folder / split} has no images of {_listed(empty)}; remove the empty folders or fill them")
    images = datasets.ImageFolder(folder / split, loader=of_file)
    images.classes = names
    images.class_to_idx = {name: number for number, name in enumerate(names)}
    images.targets = [images.class_to_idx[here[label]] for label in images.targets]
    images.samples = [(path, label) for (path, _), label in zip(images.samples, images.targets, strict=True)]
    images.imgs = images.samples
    return images


def _listed(classes: list[str]) -> str:
    """Return the names of some classes in words."""
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return f"the class{'es' * (len(classes) > 1)} {', '.join(classes[:5])}{more}"


def digest(name: str, root: Path) -> str | None:
    """Return a digest of a data set's files, after comparing them with the recorded checksums.

    `prepare_data.py` records the checksums of shards. Return None if it never saw them. The digest
    of a folder with a million images covers only their names, and a damaged image is found when it
    is read.

    Raises:
        UserError: a file is missing or damaged.
    """
    if name == "FashionMNIST":
        return small_images_digest(name, root)
    if name == "ImageNet":
        names = {}
        for split in SPLITS:
            samples = read(name, root, split).samples  # type: ignore[attr-defined]
            names[split] = verified.overall({path: str(label) for path, label in samples})
        return verified.overall(names)
    return verified.verify_remembered(root / FOLDERS[name], shard_names(name, root), "download this shard again")


def shard_names(name: str, root: Path) -> list[str]:
    """Return the paths of all shards in the data set's folder."""
    folder = root / FOLDERS[name]
    return [str(path.relative_to(folder)) for split in SPLITS for path in sorted(folder.glob(SHARDS[name][split]))]


def classes_of(images: Images) -> int | None:
    """Return the number of classes from the images' folders or the shards' labels, or None if unknown."""
    while isinstance(images, Subset):
        images = images.dataset  # type: ignore[assignment]
    if isinstance(images, TarShards | ParquetShards):
        return images.classes
    return len(images.class_to_idx) if hasattr(images, "class_to_idx") else None


def _missing(name: str, root: Path, split: str) -> str:
    command = f"python scripts/prepare_data.py imagenet {name} data_dir={root}"
    return f"{name} ({split}) is not in {root / FOLDERS[name]}; prepare it with: {command}"
