"""One case of a data set, and what nnU-Net's reader needs of it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tasks.engine.errors import UserError, one_line

# In mm. A value outside is in another unit, or no spacing.
SPACING = (0.05, 20.0)
# How far, in mm, an image and its label may be apart: a fifth of the smallest voxels, and less than annotators agree.
TOLERANCE = 0.1
# Apart by rounding alone, in mm.
ROUNDING = 0.01
# The largest cosine between two axes that SimpleITK, nnU-Net's reader, takes for a right angle.
RIGHT_ANGLE = 1e-4


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
        name: a key of NUMBERS in `raw.py`.
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


def checked(facts: Facts, case: Case, tolerance: float) -> tuple[Case, float]:
    """Return the case as nnU-Net can read it, and how far its images and its label were apart, in mm.

    What is apart from the first image by more than rounding takes its place. A label of floats becomes integers.

    Raises:
        UserError: nnU-Net can't use the case, or a volume is further apart from the first image than `tolerance`.
    """
    where = f"{facts.name}, case {case.name}: "
    if len(case.channels) != len(facts.channels):
        raise UserError(f"{where}{len(case.channels)} images, not one for each of {', '.join(facts.channels)}")
    for kind, image in zip((*facts.channels, "its label"), (*case.channels, case.label), strict=True):
        _check_header(f"{where}{kind}", image)
        if image.shape != case.channels[0].shape:
            first = f"{facts.channels[0]} has the shape {case.channels[0].shape}"
            raise UserError(f"{where}{first}, {kind} {image.shape}; they must be equal")
    for kind, image in zip(facts.channels, case.channels, strict=True):
        if not np.isfinite(_numbers(f"{where}{kind}", image)).all():
            raise UserError(f"{where}{kind} holds NaN or infinite values")
    label = _of_integers(where, facts, case.label)
    distances = [distance_of(image, case.channels[0]) for image in (*case.channels, label)]
    if (apart := max(distances)) > tolerance:
        kind = (*facts.channels, "its label")[distances.index(apart)]
        raise UserError(
            f"{where}{facts.channels[0]} and {kind} lie at different places (spacing, orientation or origin), {apart:.3g} "
            f"mm apart; correct a header, or allow more than {tolerance:g} mm: python scripts/prepare_data.py segmentation "
            f"{facts.name} tolerance={np.ceil(apart * 1000) / 1000:g}"
        )
    *channels, label = (
        image if distance <= ROUNDING else type(image)(voxels(image), case.channels[0].affine)
        for image, distance in zip((*case.channels, label), distances, strict=True)
    )
    return Case(case.name, channels, label), apart


def _check_header(what: str, image: Any) -> None:
    if len(image.shape) != 3 or 0 in image.shape:
        raise UserError(f"{what} has the shape {image.shape}, and must be 3D")
    if not np.isfinite(image.affine).all():
        raise UserError(f"{what} has NaN or infinite values in its header's affine; correct the header")
    if not all(SPACING[0] <= edge <= SPACING[1] for edge in spacing(image)):
        raise UserError(
            f"{what}: its voxels have edges of {spacing(image)} mm; from {SPACING[0]:g} to {SPACING[1]:g} mm are expected"
        )
    axes = image.affine[:3, :3]
    if np.linalg.matrix_rank(axes) < 3:
        raise UserError(f"{what}: its header has no orientation: two axes of the array point the same way")
    axes = axes / np.linalg.norm(axes, axis=0)
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
    if cosine > RIGHT_ANGLE:
        angle = np.degrees(np.arccos(cosine))
        raise UserError(
            f"{what} is sheared: axes of its header's affine meet at {angle:.4g} degrees, and nnU-Net needs right angles; "
            "resample it, or correct the header"
        )


def distance_of(image: Any, other: Any) -> float:
    """Return how far the corners of two volumes of one shape are apart, at most, in mm."""
    corners = np.array([[*corner, 1] for corner in product(*((0, edge - 1) for edge in image.shape))])
    apart = np.linalg.norm((corners @ (image.affine - other.affine).T)[:, :3], axis=1).max()
    # SimpleITK takes the spacing from another field of the header than the affine.
    edges = np.abs(np.subtract(spacing(image), spacing(other))) * (np.array(image.shape) - 1)
    return float(max(apart, edges.max()))


def _of_integers(where: str, facts: Facts, label: Any) -> Any:
    """Return the label with integers, or raise UserError if it has others than the data set's."""
    values = given = _numbers(f"{where}its label", label)
    if given.dtype.kind == "f":  # a scaled file gives 1.9999999 for 2
        values = np.where(np.abs(given - np.rint(given)) < 1e-3, np.rint(given), given)
    found = np.unique(values)
    if unknown := [value for value in found.tolist() if value not in range(len(facts.labels))]:
        raise UserError(
            f"{where}label {unknown[0]:g} is not one of 0 to {len(facts.labels) - 1} ({', '.join(facts.labels)})"
        )
    return label if values is given else type(label)(values.astype(np.uint8), label.affine)


def _numbers(what: str, image: Any) -> np.ndarray:
    values = voxels(image)
    if values.dtype.kind not in "iuf":
        raise UserError(f"{what} holds values of the kind {values.dtype}, not plain numbers; convert it")
    return values


def voxels(image: Any) -> np.ndarray:
    """Read a volume's values from its file, or raise UserError if this fails."""
    try:
        return np.asanyarray(image.dataobj)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(
            f"{image.get_filename()} is damaged or incomplete ({one_line(error)}); download or unpack it again"
        ) from error


def spacing(image: Any) -> list[float]:
    """Return the edges of the voxels, in mm."""
    return [round(float(zoom), 4) for zoom in image.header.get_zooms()[:3]]


def orientation(image: Any) -> str:
    """Return where the three axes of an image's array point to: RAS is right, anterior, superior."""
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(image.affine))
