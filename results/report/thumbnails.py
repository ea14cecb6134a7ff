"""Shrink the runs' pictures so that a page can hold many of them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIZE = (480, 160)  # the picture fits into this many pixels: three slices side by side


@dataclass(frozen=True)
class Thumbnail:
    """A picture's name and its content as a data: URL."""

    name: str
    url: str


def thumbnails(pictures: Sequence[tuple[str, Path]]) -> tuple[Thumbnail, ...]:
    """Return a JPEG of about 10 kB for each picture (name, file)."""
    return tuple(Thumbnail(name.removesuffix(".png"), _url(path)) for name, path in pictures)


def _url(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail(SIZE)
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
