"""Convert data sets to nnU-Net's raw format: blocks of the MNI152 template, or the user's downloads."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tasks.engine import fake
from tasks.segmentation import mni, nnunet, owners, raw
from tasks.segmentation.cases import TOLERANCE

DATA_SETS = ("MNI152", *owners.SOURCES)
ALIASES = {"mini": "MNI152"}
KEYS = ("tolerance",)


def prepare(name: str, root: Path, say: Callable[[str], None], tolerance: float = TOLERANCE) -> None:
    """Put the data set `name` of DATA_SETS into `root`. Do nothing if it is there.

    Image and label of a case may be `tolerance` mm apart.

    Raises:
        UserError: the user has to download something, files are not as their owners publish them,
            or nnU-Net is missing.
    """
    nnunet.require()
    if raw.finished(root, name):
        raw.digest(root, name)
        return
    if name == "MNI152":
        mni.prepare(root, say)
        return
    source = owners.SOURCES[name]
    if made := fake.facts(root, name):
        source = replace(source, facts=replace(source.facts, cases=made["cases"]))
    folder = root / "segmentation" / "source" / source.folder
    say(f"{name}: reading {source.facts.cases} cases of {folder}; licence: {source.facts.licence}")
    moved = raw.write(root, source.facts, owners.cases(source, folder), tolerance)
    if moved:
        furthest = max(moved, key=lambda case: moved[case])
        say(
            f"warning: {name}: images and labels of {len(moved)} cases are up to {moved[furthest]:.3g} mm apart "
            f"({furthest}), within tolerance={tolerance:g}; all are written at the image's place"
        )
    turned = Counter(case["orientation"] for case in raw.manifest(root, name)["cases"])
    # No error: the owners may have published them so, and augmentation mirrors every axis.
    if len(turned) > 1:
        kinds = ", ".join(f"{count} {axes}" for axes, count in turned.most_common())
        say(f"{name}: the arrays of its cases are not oriented alike ({kinds}), and nnU-Net does not turn them")
