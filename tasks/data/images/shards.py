"""Labelled images in webdataset's shards, by index.

The place of each image in its shard is looked up once and kept in a file.
"""

import hashlib
import io
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError, Image
from PIL.Image import fromarray as from_array
from PIL.Image import open as open_image

from tasks.engine.errors import UserError, one_line
from tasks.engine.files import write_atomically

ENDINGS = ("jpg", "jpeg", "png")
PLACE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i4")])


class TarShards:
    """Images `<key>.jpg` with their classes, `<key>.cls`, in tar files.

    They are in the order of `files`, and within each in the order of keys. An image is one read of
    its bytes, in any order. `classes` is the highest class plus one.

    Raises:
        UserError: a shard is damaged, or the index can't be written into `folder`.
    """

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._files, self._places = list(files), _places(files, folder)
        self.classes = int(self._places["label"].max()) + 1

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> tuple[Image, int]:
        shard, offset, length, label = self._places[index].tolist()
        path = self._files[shard]
        return decoded(content_of(path, offset, length), f"the {length:,} bytes from {offset:,} on of {path}"), label


def content_of(path: Path, offset: int = 0, length: int = -1) -> bytes:
    """Return the bytes of a file, or `length` of them from `offset` on. Raise UserError if it can't be read."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); fix this, then run the same command again"
        ) from error


# PIL warns of odd metadata and of large images for each file, and doesn't name it.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Formats without integers of 32 bits. PIL opens their grey images of 16 bits as mode I, with values up to 65535.
SIXTEEN_BITS = ("PNG", "PPM")


def decoded(content: bytes | None, where: str) -> Image:
    """Return the image of a file's bytes, with 8 bits a channel.

    Grey values of 16 bits are scaled. PIL itself would clip them at 255. Of several frames the first is returned.

    Raises:
        UserError: the bytes are not a complete image, PIL refuses its size, or it has 32 bits a pixel. The message
            names `where`.
    """
    try:
        image = open_image(io.BytesIO(content or b""))
        image.load()
    except MemoryError:
        raise
    except (DecompressionBombError, ValueError) as error:  # of more than 179 megapixels, or with a long text
        raise UserError(
            f"{where} are an image that PIL refuses ({one_line(error)}); save it with fewer pixels and no metadata"
        ) from error
    except Exception as error:  # PIL's readers of formats raise many classes
        reason = "cannot identify image file" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise UserError(f"{where} are not a complete image ({reason}); download the file again") from error
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        return from_array((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"{where} are an image of 32 bits a pixel, whose range is unknown; save it with 8 or 16 bits")
    return image


def _places(files: Sequence[Path], folder: Path) -> np.ndarray:
    """Return the place of every image, kept in `folder` from an earlier look at the same files."""
    states = [(file.name, (state := file.stat()).st_size, state.st_mtime_ns) for file in files]
    kept = folder / f"{hashlib.sha256(repr(states).encode()).hexdigest()[:16]}.npy"
    if kept.exists():
        return np.load(kept)
    found = [(number, *place) for number, file in enumerate(files) for place in _of_shard(file)]
    places = np.array(found, dtype=PLACE)
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(kept, lambda file: np.save(file, places))
    except OSError as error:
        raise UserError(f"the index of the shards cannot be written into {folder}: {error.strerror}") from error
    return places


def _of_shard(file: Path) -> list[tuple[int, int, int]]:
    """Return offset, length and class of each image, in the order of their keys.

    Raises:
        UserError: the shard is damaged or not a shard of this kind.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    classes: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                if member.isfile():
                    samples.setdefault(f"{folder}/{key}", {})[ending] = member
                if ending == "cls" and (content := shard.extractfile(member)) is not None:
                    classes[f"{folder}/{key}"] = content.read()
            end = shard.offset
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{file} is damaged: {error}; download this shard again") from error
    # tarfile takes an unreadable header for the end of the archive.
    with open(file, "rb") as whole:
        whole.seek(end)
        if not (rest := whole.read()) or any(rest):
            raise UserError(f"{file} is damaged: it ends at byte {end:,}; download this shard again")
    places = []
    for key, members in sorted(samples.items()):
        images = [members[ending] for ending in ENDINGS if ending in members]
        if len(images) != 1 or not classes.get(key, b"").strip().isdigit():
            raise UserError(
                f"{file}: {key.strip('/')!r} must have one image ({', '.join(ENDINGS)}) and a .cls with its class's number"
            )
        places.append((images[0].offset_data, images[0].size, int(classes[key])))
    if not places:
        raise UserError(f"{file} holds no images")
    return places
