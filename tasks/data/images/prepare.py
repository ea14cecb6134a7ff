"""Prepare ImageNet as far as its licence allows: unpack what the user has downloaded, and say what is missing."""

import os
from collections.abc import Callable
from pathlib import Path

from tasks.data.downloads import import_datasets
from tasks.data.images.labelled import FOLDERS, SHARDS, SPLITS, classes_of, digest, read, shard_names
from tasks.data.images.torchvision_sets import prepare as prepare_small_images
from tasks.engine import fake, verified
from tasks.engine.errors import UserError

DATA_SETS = tuple(FOLDERS)
IMAGES = {"train": 1_281_167, "val": 50_000}
CLASSES = 1000
# The archives of image-net.org. torchvision makes train/ and val/ from them, with a folder for each
# class.
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
# The exports on Hugging Face, and which of their files are needed.
EXPORTS = {
    "ImageNetParquet": ("ILSVRC/imagenet-1k", "--include 'data/*'"),
    "ImageNetWebDataset": ("timm/imagenet-1k-wds", "--include '*.tar'"),
}


def prepare(name: str, root: Path, say: Callable[[str], None]) -> None:
    """Put the data set `name` of DATA_SETS into `root`. Do nothing if it is complete.

    Raises:
        UserError: the user has to download something, or a package is missing.
    """
    folder = root / FOLDERS[name]
    if name == "FashionMNIST":  # shared with mini scale of the task cifar100
        prepare_small_images(name, root, say)
    elif name == "ImageNet":
        for split in SPLITS:
            if not (folder / split).is_dir():
                _unpack(folder, split, say)
            _check_count(name, root, split, *_files(folder / split))
    else:
        if name == "ImageNetParquet":
            import_datasets(name)
        if missing := [split for split in SPLITS if not list(folder.glob(SHARDS[name][split]))]:
            export, files = EXPORTS[name]
            command = f"hf download {export} --repo-type dataset {files} --local-dir {folder}"
            terms = f"https://huggingface.co/datasets/{export}"
            raise UserError(f"{name} ({missing[0]}) is not in {folder}: accept the terms at {terms}, then: {command}")
        if name == "ImageNetParquet":
            say(
                f"{name}: its Arrow copy in {folder / 'arrow'} takes another 150 GB and some minutes, unless it is there"
            )
        else:
            say(f"{name}: indexing its images takes some minutes, unless the index is in {folder / 'index'}")
        for split in SPLITS:
            images = read(name, root, split)
            _check_count(name, root, split, classes_of(images) or CLASSES, len(images))
        if digest(name, root) is None:
            say(f"{name}: recording the checksums of its shards takes some minutes")
            verified.remember(folder, shard_names(name, root))


def _unpack(folder: Path, split: str, say: Callable[[str], None]) -> None:
    """Unpack an archive, or raise UserError if it is missing or damaged."""
    from torchvision.datasets import ImageNet

    if missing := [file for file in (ARCHIVES[split], DEVKIT) if not (folder / file).exists()]:
        raise UserError(
            f"ImageNet ({split}) is not in {folder}: register at https://image-net.org/download-images, put {' and '.join(missing)} there "
            "and run the same command again; or put, or link, folders train and val there with a folder of JPEG files for each class"
        )
    say(f"ImageNet ({split}): unpacking {ARCHIVES[split]}")
    try:
        ImageNet(folder, split=split)
    # A checksum does not match, or the disk is full.
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet ({split}): {error}; delete {folder / split}, then run the same command again"
        ) from error


def _files(folder: Path) -> tuple[int, int]:
    """Return the number of classes, and of images in all of them."""
    classes = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    return len(classes), sum(len(os.listdir(path)) for path in classes)


def _check_count(name: str, root: Path, split: str, classes: int, images: int) -> None:
    expected = (fake.facts(root, name) or IMAGES)[split]
    if (classes, images) != (CLASSES, expected):
        raise UserError(
            f"{name} ({split}) in {root / FOLDERS[name]} has {images:,} images of {classes:,} classes, not {expected:,} of {CLASSES:,}; "
            "it was not completely unpacked, or is another data set"
        )
