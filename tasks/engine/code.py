"""The commit of the code that runs. Free of torch: commands compare it with those of records."""

import functools
import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Paths in the repository that the suite itself writes.
NOT_CODE = (".", ":(exclude)results/mini", ":(exclude)results/paper")
CODE = ("cpr", "tasks", "scripts", "results/*.py", "configs")


def head() -> str | None:
    """Return the full name of the commit that is checked out, or None outside a repository."""
    try:
        return _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the code, or None outside a repository.

    If code files differ from the commit, or are not in it, "-dirty-" and 8 digits of their content
    follow. Other changes thus give another state. A process keeps its first answer, since that is
    the code it has loaded. run.py asks before it trains.
    """
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("diff", "HEAD", "--", *NOT_CODE)
        new = _git("ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines()
        contents = [path.read_bytes() for path in map(ROOT.joinpath, new) if path.is_file()]
    except (OSError, subprocess.CalledProcessError):
        return None
    if not changed and not new:
        return commit
    digest = hashlib.sha256("\0".join([changed, *new]).encode(errors="replace") + b"\0".join(contents))
    return f"{commit}-dirty-{digest.hexdigest()[:8]}"


def _git(*arguments: str) -> str:
    # safe.directory: the repository may belong to another user. Optional locks would disturb other
    # processes.
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
