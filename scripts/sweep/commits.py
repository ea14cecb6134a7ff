"""Report finished runs that another state of the code trained. Sweeps skip them all the same."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.cli.parser import ROOT


def commit_remark(finished: Sequence[Mapping[str, Any]]) -> str | None:
    """Return one line if some records are of another commit than the present one.
    Uncommitted changes are not compared.
    """
    commits = [str(record["git_commit"]).partition("-")[0] for record in finished]
    here = present_commit() if commits else None
    others = sum(not here.startswith(commit) for commit in commits) if here else 0
    return f"{others} of {len(commits)} finished runs were trained by another commit, and are kept" if others else None


def present_commit() -> str | None:
    """Return the commit of this repository, or None outside one."""
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
