"""The paper's order of its figures and tables."""

import re

NUMBERED = re.compile(r"(figure|table)_?([a-z]?)(\d+)")  # their names


def place(name: str) -> tuple[int, str, int, str]:
    """To sort by: the paper's figures, its tables, those of its appendices by letter, then what has no number."""
    found = NUMBERED.fullmatch(name)
    if found is None:
        return 2, "", 0, name
    kind, letter, number = found.groups()
    return (1 if letter else 0), letter or kind, int(number), kind
