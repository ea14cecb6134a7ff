"""Sort artefacts in the paper's order."""

import re

NUMBERED = re.compile(r"(figure|table)_?([a-z]?)(\d+)")  # names of the numbered artefacts


def place(name: str) -> tuple[int, str, int, str]:
    """Return a sort key: the paper's figures, its tables, those of its appendices by letter, then all
    others.
    """
    found = NUMBERED.fullmatch(name)
    if found is None:
        return 2, "", 0, name
    kind, letter, number = found.groups()
    return (1 if letter else 0), letter or kind, int(number), kind
