"""Report finished runs of another commit. Sweeps skip them all the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.engine.code import head


def commit_remark(finished: Sequence[Mapping[str, Any]]) -> str | None:
    """Return one line if another commit than the present one trained some of these records' runs.
    Uncommitted changes are not compared.
    """
    commits = [str(record["git_commit"]).partition("-")[0] for record in finished if record["git_commit"]]
    here = head() if commits else None
    others = sum(not here.startswith(commit) for commit in commits) if here else 0
    if not others:
        return None
    return f"{others} of {len(finished)} finished runs were trained by another commit; reproduce.py skips them all the same"
