"""Write data sets in nnU-Net's raw format, checking case by case. A folder is whole or absent.

<data_dir>/segmentation/raw/Dataset901_Heart/ holds imagesTr/la_003_0000.nii.gz,
labelsTr/la_003.nii.gz, dataset.json and manifest.json.
"""

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.engine import verified
from tasks.engine.errors import UserError
from tasks.engine.files import disk_full_is_said, one_at_a_time, sync_folder, write_bytes_atomically
from tasks.segmentation.cases import ROUNDING, TOLERANCE, Case, Facts, checked, orientation, spacing

# nnU-Net identifies a data set by its number.
NUMBERS = {"MNI152": 900, "Heart": 901, "BTCV": 902, "BraTS": 903, "AMOS22": 904}
SUFFIX = ".nii.gz"


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


def write(root: Path, facts: Facts, cases: Iterable[Case], tolerance: float = TOLERANCE) -> dict[str, float]:
    """Write the data set. The same cases give the same bytes.

    Images and labels that are apart by at most `tolerance` mm are written at one place. Return how far, in mm, by
    the name of their case.

    Raises:
        UserError: a case is not as nnU-Net needs it, or the number of cases is wrong.
    """
    folder, rows, moved = folder_of(root, facts.name), [], {}
    with locked(folder), made_at_once(folder) as fresh:
        for part in ("imagesTr", "labelsTr"):
            (fresh / part).mkdir()
        for given in cases:
            case, apart = checked(facts, given, tolerance)
            if apart > ROUNDING:
                moved[case.name] = apart
            images = {f"imagesTr/{case.name}_{number:04}{SUFFIX}": image for number, image in enumerate(case.channels)}
            files = {
                path: _save(fresh / path, image)
                for path, image in (images | {f"labelsTr/{case.name}{SUFFIX}": case.label}).items()
            }
            about = {"name": case.name, "shape": list(case.label.shape), "spacing": spacing(case.label)}
            rows.append(about | {"orientation": orientation(case.label), "files": files})
        if len(rows) != facts.cases:
            raise UserError(
                f"{facts.name} has {len(rows)} cases here, not {facts.cases}; not unpacked to the end, or another one"
            )
        _write_json(fresh / "dataset.json", _for_nnunet(facts))
        _write_json(fresh / "manifest.json", {"name": facts.name, "licence": facts.licence, "cases": rows})
    return moved


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
