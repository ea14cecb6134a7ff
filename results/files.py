"""Write result files atomically, with the same bytes for the same content."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> Path:
    """Write atomically, and only if the content changed, so that a repeated run touches no files."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return path
