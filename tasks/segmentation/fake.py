"""Fake volumes of Heart, BTCV, BraTS 2020 and AMOS22, laid out as their owners do, with their oddities."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tasks.engine import fake
from tasks.segmentation import owners

CASES = {"Heart": 5, "BTCV": 6, "BraTS": 5, "AMOS22": 5}
EDGE = 20  # voxels
SPACING = {"Heart": (1.25, 1.25, 1.37), "BTCV": (0.8, 0.8, 3.0), "BraTS": (1.0, 1.0, 1.0), "AMOS22": (0.7, 0.7, 5.0)}


@fake.once("Heart")
def heart(root: Path) -> None:
    """Write Task02_Heart.tar of the Decathlon, unopened. macOS left files ._* in it."""
    folder = fake.begin(root, Path("segmentation", "source"))
    with TemporaryDirectory() as place:
        task = Path(place, "Task02_Heart")
        for number, (image, label) in enumerate(_cases("Heart")):
            name = f"la_{number + 3:03}.nii.gz"
            _save(image, task / "imagesTr" / name)
            _save(label, task / "labelsTr" / name)
            (task / "imagesTr" / f"._{name}").write_bytes(b"\0\5\26\7 of macOS")
        _save(image, task / "imagesTs" / "la_001.nii.gz")
        (task / "dataset.json").write_text(json.dumps({"name": "LeftAtrium", "numTraining": CASES["Heart"]}))
        with tarfile.open(folder / "Task02_Heart.tar", "w") as archive:
            archive.add(task, "Task02_Heart")
    _end(root, "Heart")


@fake.once("BTCV")
def btcv(root: Path) -> None:
    """Write Training of RawData.zip: img/img0001.nii.gz and label/label0001.nii.gz."""
    folder = _begin(root, "BTCV")
    for number, (image, label) in enumerate(_cases("BTCV"), start=1):
        _save(image, folder / "img" / f"img{number:04}.nii.gz")
        _save(label, folder / "label" / f"label{number:04}.nii.gz")
    _end(root, "BTCV")


@fake.once("BraTS")
def brats(root: Path) -> None:
    """Write a folder for each patient. Label 3 is skipped, and patient 355's label has another name and no .gz."""
    folder = _begin(root, "BraTS")
    numbers = [*range(1, CASES["BraTS"]), 355]
    for number, (image, label) in zip(numbers, _cases("BraTS"), strict=True):
        patient = folder / f"BraTS20_Training_{number:03}"
        for kind in ("t1", "t1ce", "t2", "flair"):
            _save(image, patient / f"{patient.name}_{kind}.nii.gz")
        values = np.asarray(label.dataobj)
        label = type(label)(np.where(values == 3, 4, values).astype(np.uint8), label.affine)
        _save(label, patient / ("W39_1998.09.19_Segm.nii" if number == 355 else f"{patient.name}_seg.nii.gz"))
    (folder / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\n")
    _end(root, "BraTS")


@fake.once("AMOS22")
def amos22(root: Path) -> None:
    """Write amos22. MRI volumes (from number 500 on) lie among the CT ones, and not all arrays are oriented alike."""
    import nibabel

    folder = _begin(root, "AMOS22")
    numbers = [*range(1, CASES["AMOS22"] + 1), 507]
    for number, (image, label) in zip(numbers, _cases("AMOS22", len(numbers)), strict=True):
        name = f"amos_{number:04}.nii.gz"
        turned = number % 2
        for volume, part in ((image, "imagesTr"), (label, "labelsTr")):
            flipped = nibabel.orientations.axcodes2ornt("LPS")
            _save(volume.as_reoriented(flipped) if turned else volume, folder / part / name)
    (folder / "dataset.json").write_text(json.dumps({"name": "AMOS", "numTraining": len(numbers)}))
    _end(root, "AMOS22")


def _begin(root: Path, name: str) -> Path:
    return fake.begin(root, Path("segmentation", "source", owners.SOURCES[name].folder))


def _end(root: Path, name: str) -> None:
    fake.end(root, name, {"cases": CASES[name]}, root / "segmentation")


def _cases(name: str, count: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield image and label. Each label is a bright cube, whose grey value tells it."""
    import nibabel

    labels = len(owners.SOURCES[name].facts.labels)
    affine = np.diag([*SPACING[name], 1.0])
    for case in range(count or CASES[name]):
        draw = np.random.default_rng(case)
        label = np.zeros((EDGE,) * 3, np.uint8)
        corners = [(x, y, z) for x in (1, 7, 13) for y in (1, 7, 13) for z in (2, 11)]
        for value, corner in enumerate(corners[: labels - 1], start=1):
            x, y, z = np.array(corner) + draw.integers(0, 2, 3)
            label[x : x + 5, y : y + 5, z : z + 6] = value
        image = label * 60.0 + draw.normal(0, 20, label.shape)
        yield nibabel.Nifti1Image(image.astype(np.float32), affine), nibabel.Nifti1Image(label, affine)


def _save(image: Any, path: Path) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


FAKES = {"Heart": heart, "BTCV": btcv, "BraTS": brats, "AMOS22": amos22}
