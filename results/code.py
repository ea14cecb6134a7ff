"""What a reader must know of the code that made the runs of a table: a run id says nothing of it."""

from collections import Counter
from collections.abc import Sequence

from results.runs import Run


def code_remark(runs: Sequence[Run]) -> str:
    """One line where the runs' code differs, or had changes that no commit holds; else nothing."""
    counts = Counter(str(run.record["git_commit"]) for run in runs)
    changed = sum(number for commit, number in counts.items() if commit.endswith("-dirty"))
    said = []
    if len(counts) > 1:
        shares = ", ".join(f"{number} of {commit}" for commit, number in sorted(counts.items()))
        said.append(f"The runs are of {len(counts)} states of this repository: {shares}.")
    if changed:
        said.append(f"{changed} of {len(runs)} runs had changes that no commit holds.")
    return " ".join(said)


def written_remark(code: str) -> str:
    """The same of a table's fact `code`, the states in one list, where the runs themselves are not at hand."""
    states = code.split(", ")
    said = [f"Its runs were of {len(states)} states of this repository: {code}."] if len(states) > 1 else []
    said += ["Some had changes that no commit holds (-dirty)."] if "-dirty" in code else []
    return " ".join(said)
