"""Write data sets in nnU-Net's raw format, checking case by case. A folder is whole or absent.

<data_dir>/segmentation/raw/Dataset901_Heart/ holds imagesTr/la_003_0000.nii.gz,
labelsTr/la_003.nii.gz, dataset.json and manifest.json.
"""

import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.engine import verified
from tasks.engine.errors import UserError, one_line
from tasks.engine.files import disk_full_is_said, one_at_a_time, sync_folder, write_bytes_atomically

# nnU-Net identifies a data set by its number.
NUMBERS = {"MNI152": 900, "Heart": 901, "BTCV": 902, "BraTS": 903, "AMOS22": 904}
SUFFIX = ".nii.gz"
# In mm. A value outside is in another unit, or no spacing.
SPACING = (0.05, 20.0)


@dataclass(frozen=True)
class Case:
    """One volume: an image per channel and the label of each voxel, as nibabel's images."""

    name: str
    channels: Sequence[Any]
    label: Any


@dataclass(frozen=True)
class Facts:
    """What a data set is.

    Attributes:
        name: a key of NUMBERS.
        channels: names of the channels. nnU-Net normalizes "CT" differently from others.
        labels: names of the labels, with 0 first.
        cases: number of cases.
        licence: the owners' licence.
    """

    name: str
    channels: Sequence[str]
    labels: Sequence[str]
    cases: int
    licence: str


def folder_of(root: Path, name: str) -> Path:
    """Return the path of the raw data set, whether or not it exists."""
    return root / "segmentation" / "raw" / f"Dataset{NUMBERS[name]}_{name}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make `path`, while others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def made_at_once(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `path` if the block succeeds. The caller holds the lock of `path`."""
    fresh = path.with_name(f".{path.name}.tmp")
    # Left by a process that was killed.
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    with disk_full_is_said(path):
        yield fresh
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
        sync_folder(path.parent)


def write(root: Path, facts: Facts, cases: Iterable[Case]) -> None:
    """Write the data set. The same cases give the same bytes.

    Raises:
        UserError: a case is not as nnU-Net needs it, or the number of cases is wrong.
    """
    folder, rows = folder_of(root, facts.name), []
    with locked(folder), made_at_once(folder) as fresh:
        for part in ("imagesTr", "labelsTr"):
            (fresh / part).mkdir()
        for case in cases:
            _check(facts, case)
            images = {f"imagesTr/{case.name}_{number:04}{SUFFIX}": image for number, image in enumerate(case.channels)}
            files = {
                path: _save(fresh / path, image)
                for path, image in (images | {f"labelsTr/{case.name}{SUFFIX}": case.label}).items()
            }
            about = {"name": case.name, "shape": list(case.label.shape), "spacing": _spacing(case.label)}
            rows.append(about | {"orientation": orientation(case.label), "files": files})
        if len(rows) != facts.cases:
            raise UserError(
                f"{facts.name} has {len(rows)} cases here, not {facts.cases}; not unpacked to the end, or another one"
            )
        _write_json(fresh / "dataset.json", _for_nnunet(facts))
        _write_json(fresh / "manifest.json", {"name": facts.name, "licence": facts.licence, "cases": rows})


def _for_nnunet(facts: Facts) -> dict[str, Any]:
    return {
        "channel_names": {str(number): channel for number, channel in enumerate(facts.channels)},
        "labels": {label: number for number, label in enumerate(facts.labels)},
        "numTraining": facts.cases,
        "file_ending": SUFFIX,
    }


def _write_json(path: Path, content: Any) -> None:
    write_bytes_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _save(path: Path, image: Any) -> dict[str, Any]:
    # nibabel would write the time into the file.
    content = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    path.write_bytes(content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def voxels(image: Any) -> np.ndarray:
    """Read a volume's values from its file, or raise UserError if this fails."""
    try:
        return np.asanyarray(image.dataobj)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(
            f"{image.get_filename()} is damaged or incomplete ({one_line(error)}); download or unpack it again"
        ) from error


def orientation(image: Any) -> str:
    """Return where the three axes of an image's array point to: RAS is right, anterior, superior."""
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(image.affine))


def _check(facts: Facts, case: Case) -> None:
    where = f"{facts.name}, case {case.name}: "
    if len(case.channels) != len(facts.channels):
        raise UserError(f"{where}{len(case.channels)} images, not one for each of {', '.join(facts.channels)}")
    for channel, image in zip(facts.channels, case.channels, strict=True):
        if image.shape != case.label.shape or len(image.shape) != 3:
            raise UserError(
                f"{where}{channel} has the shape {image.shape}, its label {case.label.shape}; they must be equal, and 3D"
            )
        if not np.allclose(image.affine, case.label.affine, atol=1e-2):  # spacing, orientation and origin
            raise UserError(f"{where}{channel} and its label lie at different places (spacing, orientation or origin)")
        if not np.isfinite(voxels(image)).all():
            raise UserError(f"{where}{channel} holds NaN or infinite values")
    spacing = _spacing(case.label)
    if not all(SPACING[0] <= edge <= SPACING[1] for edge in spacing):
        raise UserError(
            f"{where}its voxels have edges of {spacing} mm; from {SPACING[0]:g} to {SPACING[1]:g} mm are expected"
        )
    if np.linalg.matrix_rank(case.label.affine[:3, :3]) < 3:
        raise UserError(f"{where}its header has no orientation: two axes of the array point the same way")
    found = np.unique(voxels(case.label))
    if unknown := [value for value in found.tolist() if value not in range(len(facts.labels))]:
        raise UserError(
            f"{where}label {unknown[0]:g} is not one of 0 to {len(facts.labels) - 1} ({', '.join(facts.labels)})"
        )


def _spacing(image: Any) -> list[float]:
    return [round(float(zoom), 4) for zoom in image.header.get_zooms()[:3]]


def digest(root: Path, name: str) -> str:
    """Return a digest of all cases, after comparing their files with the manifest.

    Raises:
        UserError: a file is missing or damaged.
    """
    files = {path: file["sha256"] for case in manifest(root, name)["cases"] for path, file in case["files"].items()}
    fix = f"prepare it with: python scripts/prepare_data.py segmentation {name} data_dir={root}"
    return verified.verify(folder_of(root, name), files, fix)


def finished(root: Path, name: str) -> bool:
    """Return whether the data set is there and every file has the recorded length."""
    return not _damaged(folder_of(root, name))


def _damaged(folder: Path) -> str | None:
    """Return a file that is missing or has another length, or None if all is well."""
    try:
        rows = json.loads((folder / "manifest.json").read_text())["cases"]
        json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError, KeyError):
        return "manifest.json or dataset.json"
    for row in rows:
        for name, file in row["files"].items():
            if not (folder / name).exists() or (folder / name).stat().st_size != file["bytes"]:
                return str(name)
    return None


def manifest(root: Path, name: str) -> Mapping[str, Any]:
    """Return manifest.json of a prepared data set: its cases with the SHA-256 of their files.

    Raises:
        UserError: the data set is missing or incomplete.
    """
    folder = folder_of(root, name)
    command = f"python scripts/prepare_data.py segmentation {name} data_dir={root}"
    if not folder.exists():
        raise UserError(f"{name} is not in {folder}; prepare it with: {command}")
    if damaged := _damaged(folder):
        raise UserError(
            f"{folder}: {damaged} is missing or has another length than recorded; prepare it again with: {command}"
        )
    return json.loads((folder / "manifest.json").read_text())
