"""Write result files atomically, with the same bytes for the same content."""

import io
import os
from collections.abc import Collection
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def write(path: Path, content: str | bytes) -> Path:
    """Write atomically, and only if the content changed, so that a repeated run touches no files."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return path


def draw(figure: Figure, out_dir: Path, name: str = "figure", kinds: Collection[str] = ("png", "svg")) -> list[Path]:
    """Write <name>.png and <name>.svg, or only the given `kinds`."""
    files = []
    # Leave out the date and the random salt, which would make every file differ from the last.
    with matplotlib.rc_context({"svg.hashsalt": "cpr", "svg.fonttype": "path"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            if kind not in kinds:
                continue
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
            files.append(write(out_dir / f"{name}.{kind}", buffer.getvalue()))
    return files
