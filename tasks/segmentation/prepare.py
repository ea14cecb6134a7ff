"""Convert data sets to nnU-Net's raw format: blocks of the MNI152 template, or the user's downloads."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tasks.engine import fake
from tasks.segmentation import mni, nnunet, owners, raw

DATA_SETS = ("MNI152", *owners.SOURCES)
ALIASES = {"mini": "MNI152"}


def prepare(name: str, root: Path, say: Callable[[str], None]) -> None:
    """Put the data set `name` of DATA_SETS into `root`. Do nothing if it is there.

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
    raw.write(root, source.facts, owners.cases(source, folder))
    turned = Counter(case["orientation"] for case in raw.manifest(root, name)["cases"])
    # No error: the owners may have published them so, and augmentation mirrors every axis.
    if len(turned) > 1:
        kinds = ", ".join(f"{count} {axes}" for axes, count in turned.most_common())
        say(f"{name}: the arrays of its cases are not oriented alike ({kinds}), and nnU-Net does not turn them")
