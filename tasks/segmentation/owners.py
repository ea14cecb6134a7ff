"""Read Heart, BTCV, BraTS 2020 and AMOS22 case by case, as the user downloaded them from their owners.

A source is the folder that an archive unpacks to, or Heart's unopened Task02_Heart.tar.
"""

import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.engine.errors import UserError, one_line
from tasks.segmentation.cases import Case, Facts, voxels

BTCV_ORGANS = [
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
]
AMOS_ORGANS = [
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "vena_cava",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
    "duodenum",
    "bladder",
    "prostate_or_uterus",
]


PATIENT = "a patient of BraTS has t1, t1ce, t2, flair and seg"


@dataclass(frozen=True)
class Source:
    """A data set's facts, its unpacked folder, its download, and its cases in that folder.

    `tar`: it is published as <folder>.tar, which need not be unpacked.
    """

    facts: Facts
    folder: str
    download: str
    cases: Callable[[Path], Iterator[Case]]
    tar: bool = False


def cases(source: Source, folder: Path) -> Iterator[Case]:
    """Yield the cases in the unpacked folder, or in its tar archive beside it.

    Raises:
        UserError: both are missing, the folder has another layout, or a case lacks a file.
    """
    found = 0
    with _unpacked(source, folder) as unpacked:
        for case in source.cases(unpacked):
            found += 1
            yield case
    if not found:
        raise UserError(
            f"{source.facts.name}: {folder} is not laid out as its owners publish it, it holds no case; unpack it again"
        )


@contextmanager
def _unpacked(source: Source, folder: Path) -> Iterator[Path]:
    """Yield the unpacked folder, or unpack the archive beside it while it is read."""
    archive = folder.with_name(f"{folder.name}.tar")
    if folder.is_dir():
        yield folder
    elif source.tar and archive.exists():
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{folder.name}.") as place:
            try:
                with tarfile.open(archive) as content:
                    content.extractall(place, filter="data")
            except (tarfile.TarError, EOFError) as error:
                raise UserError(f"{archive} is damaged or incomplete ({one_line(error)}); download it again") from error
            yield Path(place, folder.name)
    else:
        place = f"unpack it there or leave it as {archive}" if source.tar else "unpack it there"
        raise UserError(
            f"{source.facts.name} is not in {folder}: {source.download} ({source.facts.licence}), {place}, and try again"
        )


def _paired(images: str, labels: str, name: Callable[[str], str] = str, keep: Callable[[str], bool] = bool) -> Any:
    """Return a reader of cases with one image each.

    Images are files of the folder `images`. Each has a label in the folder `labels`, named by
    `name` of the image's name.
    """

    def read(folder: Path) -> Iterator[Case]:
        # The Decathlon's archives contain files "._..." that macOS left.
        for path in sorted((folder / images).glob("[!.]*.nii.gz")):
            if keep(path.name):
                label = _load(folder / labels / name(path.name), "every image has a label of the same name")
                yield Case(path.name.removesuffix(".nii.gz"), [_load(path)], label)

    return read


def _brats(folder: Path) -> Iterator[Case]:
    for patient in sorted(path for path in folder.glob("BraTS20_Training_*") if path.is_dir()):
        stem = str(patient / patient.name)
        label, *channels = (
            _load(_either(f"{stem}_{kind}", patient), PATIENT) for kind in ("seg", "t1", "t1ce", "t2", "flair")
        )
        values = voxels(label)
        if values.dtype.kind in "iuf":  # else it is refused later
            label = type(label)(np.where(values == 4, 3, values), label.affine)  # its owners skipped 3
        yield Case(patient.name, channels, label)


def _either(stem: str, patient: Path) -> Path:
    """Return the compressed or uncompressed file. Patient 355's label has another name in the owners' archive."""
    misnamed = sorted(patient.glob("*Segm.nii*")) if stem.endswith("_seg") else []
    return next(
        (path for path in (Path(f"{stem}.nii.gz"), Path(f"{stem}.nii"), *misnamed) if path.exists()),
        Path(f"{stem}.nii.gz"),
    )


def _is_ct(name: str) -> bool:
    """Return whether a volume of AMOS22 is CT (task 1). From number 500 on they are MRI."""
    numbered = re.fullmatch(r"amos_(\d{4})\.nii\.gz", name)
    if numbered is None:
        raise UserError(
            f"AMOS22: imagesTr/{name} is not named as its owners' files are, amos_0001.nii.gz; move it elsewhere and try again"
        )
    return int(numbered[1]) < 500


def _load(path: Path, belongs: str = "") -> Any:
    import nibabel

    if not path.exists():
        raise UserError(f"{path} is missing: {belongs}; unpack the owners' archive again")
    try:
        return nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); download or unpack it again") from error


HEART = Source(
    Facts("Heart", ["MRI"], ["background", "left_atrium"], 20, "CC BY-SA 4.0"),
    "Task02_Heart",
    "download Task02_Heart.tar of the Medical Segmentation Decathlon from http://medicaldecathlon.com",
    _paired("imagesTr", "labelsTr"),
    tar=True,
)
BTCV = Source(
    Facts("BTCV", ["CT"], ["background", *BTCV_ORGANS], 30, "free after registration at Synapse"),
    "BTCV/Training",
    "register at https://www.synapse.org/Synapse:syn3193805 and download Abdomen/RawData.zip",
    _paired("img", "label", lambda name: name.replace("img", "label")),
)
BRATS = Source(
    Facts(
        "BraTS",
        ["T1", "T1ce", "T2", "FLAIR"],
        ["background", "necrosis", "edema", "enhancing_tumour"],
        369,
        "free after registration, for research",
    ),
    "MICCAI_BraTS2020_TrainingData",
    "ask for the training data of BraTS 2020 at https://www.med.upenn.edu/cbica/brats2020/registration.html",
    _brats,
)
AMOS22 = Source(
    Facts("AMOS22", ["CT"], ["background", *AMOS_ORGANS], 200, "CC BY 4.0"),
    "amos22",
    "download amos22.zip from https://zenodo.org/records/7155725",
    _paired("imagesTr", "labelsTr", keep=_is_ct),
)
SOURCES = {source.facts.name: source for source in (HEART, BTCV, BRATS, AMOS22)}
