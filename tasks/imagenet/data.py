"""Labelled images by their index: folders of files, shards of parquet or tar files, or Fashion-MNIST at mini scale."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch.utils.data import Subset

from tasks.cifar100.prepare import digest as small_images_digest
from tasks.engine import verified
from tasks.engine.errors import UserError
from tasks.engine.seeding import generator_for
from tasks.imagenet.shards import TarShards, decoded

SPLITS = ("train", "val")
# Where each data set lies in data_dir. torchvision keeps Fashion-MNIST in a folder of its own.
FOLDERS = {
    "ImageNet": "imagenet",
    "ImageNetParquet": "imagenet-parquet",
    "ImageNetWebDataset": "imagenet-wds",
    "FashionMNIST": ".",
}
SHARDS = {  # as Hugging Face names them; webdataset's own tools write imagenet-val-*.tar
    "ImageNetParquet": {"train": "data/train-*.parquet", "val": "data/validation-*.parquet"},
    "ImageNetWebDataset": {"train": "*-train-*.tar", "val": "*-val*-*.tar"},
}


class Images(Protocol):
    """Pairs of an image and its class, from 0 on."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image, int]: ...


class ParquetShards:
    """Rows of parquet files with the columns `image` (the bytes of a file) and `label`, read through `datasets`.

    It copies them once into an Arrow table beside them, which is memory-mapped: a row is read without the rest of its shard. `classes` is
    the highest class and one.
    """

    def __init__(self, files: list[Path], folder: Path) -> None:
        datasets = import_datasets()
        table = datasets.load_dataset(
            "parquet", data_files=[str(file) for file in files], split="train", cache_dir=str(folder / "arrow")
        )
        self._table = table.cast_column("image", datasets.Image(decode=False))
        self._folder = folder
        self.classes = max(table.unique("label")) + 1

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int, /) -> tuple[Image, int]:
        row = self._table[index]
        return decoded(
            row["image"]["bytes"], f"the bytes of row {index:,} of the parquet files in {self._folder}"
        ), row["label"]


def of_file(path: str) -> Image:
    """The image of a file. Raises UserError if it is none."""
    return decoded(Path(path).read_bytes(), f"the bytes of {path}")


def import_datasets() -> Any:
    """The package `datasets`. Raises UserError if it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "ImageNetParquet needs the package datasets; install it with: pip install '.[language]'"
        ) from error
    return datasets


def load(cfg: Any, root: Path, split: str) -> Images:
    """A split ("train" or "val") of `cfg.name` in the data folder `root`, or `cfg.train_size` or `cfg.val_size` images of it.

    Which ones: those that a generator of `cfg.subset_seed` draws without replacement.

    Raises UserError if the data set is not there, its name is unknown, or the size is out of range.
    """
    images, size = read(cfg.name, root, split), cfg[f"{split}_size"]
    if size is None:
        return images
    if not 1 <= size <= len(images):
        raise UserError(f"task.data.{split}_size={size} must lie in 1..{len(images)}")
    chosen = torch.randperm(len(images), generator=generator_for(cfg.subset_seed, "subset", split))[:size]
    return Subset(images, chosen.tolist())  # type: ignore[arg-type, return-value]


@lru_cache(maxsize=4)  # a sweep's worker process reads the files once
def read(name: str, root: Path, split: str) -> Images:
    """All images of a split. Raises UserError as `load` does."""
    import torchvision.datasets as datasets

    if name not in FOLDERS:
        raise UserError(f"task.data.name={name!r} is unknown; choose one of {', '.join(FOLDERS)}")
    folder = root / FOLDERS[name]
    try:
        if name == "FashionMNIST":
            return datasets.FashionMNIST(folder, train=split == "train", download=False)
        if name == "ImageNet":
            return datasets.ImageFolder(folder / split, loader=of_file)
    except (FileNotFoundError, RuntimeError) as error:  # no folder or no class in it; no files of Fashion-MNIST
        raise UserError(_missing(name, root, split)) from error
    files = sorted(folder.glob(SHARDS[name][split]))
    if not files:
        raise UserError(_missing(name, root, split))
    return ParquetShards(files, folder) if name == "ImageNetParquet" else TarShards(files, folder / "index")


def digest(name: str, root: Path) -> str | None:
    """Return a digest of a data set's files, after comparing them with the checksums on record.

    Shards have those that `prepare_data.py` put on record; None if it never looked at them. Of a folder with a million images it
    is a digest of their names: an image that is damaged is found when it is read.

    Raises UserError if a file is missing or damaged.
    """
    if name == "FashionMNIST":
        return small_images_digest(name, root)
    if name == "ImageNet":
        names = {}
        for split in SPLITS:
            samples = read(name, root, split).samples  # type: ignore[attr-defined]
            names[split] = verified.overall({path: str(label) for path, label in samples})
        return verified.overall(names)
    return verified.verify_remembered(root / FOLDERS[name], shard_names(name, root), "get this shard anew")


def shard_names(name: str, root: Path) -> list[str]:
    """Return the paths of all shards in the data set's folder."""
    folder = root / FOLDERS[name]
    return [str(path.relative_to(folder)) for split in SPLITS for path in sorted(folder.glob(SHARDS[name][split]))]


def classes_of(images: Images) -> int | None:
    """How many classes there are, by the images' folders or the shards' highest class; None where that is not known."""
    while isinstance(images, Subset):
        images = images.dataset  # type: ignore[assignment]
    if isinstance(images, TarShards | ParquetShards):
        return images.classes
    return len(images.class_to_idx) if hasattr(images, "class_to_idx") else None


def _missing(name: str, root: Path, split: str) -> str:
    command = f"python scripts/prepare_data.py imagenet {name} data_dir={root}"
    return f"{name} ({split}) is not in {root / FOLDERS[name]}; bring it with: {command}"
