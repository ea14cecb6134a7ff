"""Mini scale's volumes: blocks of one hemisphere of the MNI152 template, with grey and white matter as labels.

The template (ICBM 2009a, non-linear, symmetric, 1 mm) is the mean of 152 heads. Probability maps of
grey and white matter come with it. Its left and right halves are equal to the last bit. Blocks of
both would be in training and validation at once, so only the left one is used. A gap lies between
neighbouring blocks.

All blocks are of one image on one scale of grey. nnU-Net normalizes an MRI by the mean and
deviation of each case. Blocks hold different amounts of white matter, so this would shift grey
against white from case to case (Dice 68 to 81 in place of 84 to 88). The channel is therefore
called "CT", for which nnU-Net takes the whole data set's mean and deviation.

Cases are places in one mean brain, not people. A Dice here shows how well tissue is recognized at
unseen places.
"""

import gzip
import io
import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tasks.engine import pypi
from tasks.segmentation import raw
from tasks.segmentation.cases import Case, Facts

WHEEL = ("nilearn==0.14.1", "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a")
FILES = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
LICENCE = "MNI152 ICBM 2009a, (C) 1993-2009 L. Collins, McConnell Brain Imaging Centre, Montreal: free use with this notice (in nilearn)"
FACTS = Facts("MNI152", ["CT"], ["background", "grey", "white"], 12, LICENCE)

# In voxels of 1 mm. The left hemisphere begins at 26, the middle plane is 98.
SIZE, GAP = (34, 34, 36), 4
FIRST = (26, 27, 3)
GRID = (2, 4, 4)  # the 12 of these 32 blocks with the most tissue are used


def prepare(root: Path, say: Callable[[str], None]) -> None:
    """Download the template from PyPI (11 MB) and write its blocks."""
    say(f"MNI152: the template from PyPI's {WHEEL[0]} (11 MB)")
    raw.write(root, FACTS, cases(pypi.archive(*WHEEL)))


def cases(wheel: bytes) -> Iterator[Case]:
    """Yield the blocks from nilearn's wheel, from left to right, back to front, bottom to top."""
    import nibabel

    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        volumes = [
            nibabel.Nifti1Image.from_bytes(gzip.decompress(archive.read(FILES.format(part))))
            for part in ("t1", "gm", "wm")
        ]
    image, grey, white = (np.asarray(volume.dataobj) for volume in volumes)
    labels = tissue(grey, white)
    for number, origin in enumerate(origins(labels), start=1):
        block = tuple(slice(begin, begin + length) for begin, length in zip(origin, SIZE, strict=True))
        affine = volumes[0].affine.copy()
        affine[:3, 3] = (affine @ [*origin, 1])[:3]  # the block's place in the head
        of_block = [nibabel.Nifti1Image(np.ascontiguousarray(part[block]), affine) for part in (image, labels)]
        yield Case(f"block_{number:02}", of_block[:1], of_block[1])


def tissue(grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Return the likeliest of background, grey and white matter, uint8, from probabilities in 255ths."""
    none = 255 - np.minimum(255, grey.astype(int) + white)
    return np.argmax(np.stack([none, grey, white]), axis=0).astype(np.uint8)


def origins(labels: np.ndarray) -> list[tuple[int, ...]]:
    """Return the first voxels of the blocks with the most tissue, in the order of their places."""
    grid = [
        range(first, first + count * (size + GAP), size + GAP)
        for first, count, size in zip(FIRST, GRID, SIZE, strict=True)
    ]

    def share(origin: tuple[int, ...]) -> float:
        return float((labels[tuple(slice(b, b + s) for b, s in zip(origin, SIZE, strict=True))] > 0).mean())

    return sorted(sorted(itertools.product(*grid), key=share, reverse=True)[: FACTS.cases])
