"""Report finished runs of another commit. Sweeps skip them all the same."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.cli.parser import ROOT


def commit_remark(finished: Sequence[Mapping[str, Any]]) -> str | None:
    """Return one line if another commit than the present one trained some of these records' runs.
    Uncommitted changes are not compared.
    """
    commits = [str(record["git_commit"]).partition("-")[0] for record in finished if record["git_commit"]]
    here = present_commit() if commits else None
    others = sum(not here.startswith(commit) for commit in commits) if here else 0
    if not others:
        return None
    return f"{others} of {len(finished)} finished runs were trained by another commit; reproduce.py skips them all the same"


def present_commit() -> str | None:
    """Return the commit of this repository, or None outside one."""
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
