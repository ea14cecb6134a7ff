"""Report the code, kernels and data behind a table's runs, which a run id doesn't show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from results.runs import Run

COMMIT = "Commit before you train, so that the record names the code."


def code_remark(runs: Sequence[Run]) -> str:
    """Return one line if the runs' code differs or had uncommitted changes; else nothing."""
    counts = Counter(commit_of(run.record) for run in runs)
    changed = sum(number for commit, number in counts.items() if "-dirty" in commit)
    said = []
    if len(counts) > 1:
        said.append(f"The runs are of {len(counts)} states of this repository: {_listed(counts)}.")
    if changed:
        said.append(f"Trained with uncommitted changes to the code: {changed} of {len(runs)} runs. {COMMIT}")
    if mixed := sum(len(states_of(run.record)) > 1 for run in runs):
        said.append(
            f"{mixed} of {len(runs)} runs went on under another code, machine, kernel or data than they began with."
        )
    for key in ("kernel", "data"):
        found = Counter((run.task, value) for run in runs for value in _values(run.record, key))
        for task in dict.fromkeys(task for task, _ in found):
            if len(shares := {value: count for (of, value), count in found.items() if of == task}) > 1:
                said.append(f"The runs of {task} have different {WORDS[key]}: {_listed(shares)}.")
    return " ".join(said)


WORDS = {"kernel": "kernels", "data": "data"}


def commit_of(record: Mapping[str, Any]) -> str:
    """Return the commit of a run, or the commits of all its states in order."""
    return " then ".join(dict.fromkeys(str(state.get("git_commit")) for state in states_of(record)))


def states_of(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the code states that computed a run's steps. Older records have only the last one."""
    return record.get("states") or [record]


def _values(record: Mapping[str, Any], key: str) -> set[str]:
    """Return the values of all states. A method without CPR has no kernel, and old records lack the value."""
    return {str(state[key]) for state in states_of(record) if state.get(key) is not None}


def _listed(shares: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {value}" for value, count in sorted(shares.items()))


def written_remark(code: str) -> str:
    """Return the same remark from a table's fact `code`, for when the runs themselves are missing.

    The fact lists all states in one line.
    """
    states = code.split(", ")
    said = [f"Its runs were of {len(states)} states of this repository: {code}."] if len(states) > 1 else []
    said += [f"Some were trained with uncommitted changes to the code (-dirty). {COMMIT}"] if "-dirty" in code else []
    return " ".join(said)
