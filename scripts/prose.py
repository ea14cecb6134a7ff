"""Measure how our prose reads:  python scripts/prose.py scripts docs

Counts semicolons and long sentences per 1,000 words, and lines above 120 columns. It reads
comments, docstrings and Markdown. Prints a line for each room and the ten files that need most
work. The report is for people: nothing fails.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scripts.cli.common import one_line_errors
from scripts.cli.parser import ROOT, Command, Names, nearest
from tasks.engine.errors import UserError

COMMAND = Command("scripts/prose.py", __doc__, Names("ROOM", "folders of the repository (default: all)"))
COLUMNS, LONG_SENTENCE = 120, 35
NOT_PROSE = ("results/mini/", "results/paper/", "results/published/", "requirements")
COMMENTS = {".yaml": "#", ".yml": "#", ".sh": "#", ".toml": "#"}


@dataclass
class Count:
    """Counts of one file, or of several."""

    words: int = 0
    semicolons: int = 0
    long_sentences: int = 0
    lines: int = 0
    long_lines: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))

    def row(self, name: str) -> str:
        per = 1000 / max(1, self.words)
        share = 100 * self.long_lines / max(1, self.lines)
        return (
            f"{name:44} {self.words:8,} {self.semicolons * per:11.1f} {self.long_sentences * per:15.1f} {share:10.1f} %"
        )


def prose_of(path: Path, text: str) -> str:
    """Return the sentences of a file.
    Code gives its comments and docstrings. Markdown gives its text without code blocks and tables.
    """
    if path.suffix == ".py":
        return "\n\n".join([*docstrings(text), *comments(text)])
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        kept = [line for line in text.splitlines() if not line.startswith(("    ", "|", "<!--", "!["))]
        return re.sub(r"`[^`]*`|\]\([^)]*\)", "code", "\n".join(kept))
    mark = COMMENTS.get(path.suffix, "#")
    return "\n".join(line.partition(f"{mark} ")[2] for line in text.splitlines() if f"{mark} " in line)


def docstrings(text: str) -> list[str]:
    """Return the docstrings of a module, its classes and its functions."""
    nodes = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    return [
        re.sub(r"^ {4,}.*:  .*$|``.*?``|`[^`]*`", "code", found, flags=re.M)
        for node in nodes
        if (found := ast.get_docstring(node))
    ]


def comments(text: str) -> list[str]:
    """Return comments. Comments on consecutive lines are joined."""
    found: list[str] = []
    last = -2
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# type:", "# noqa", "# fmt:")):
            said = token.string.lstrip("#! ")
            if token.start[0] == last + 1 and found:
                found[-1] += " " + said
            else:
                found.append(said)
            last = token.start[0]
    return found


def count(path: Path) -> Count:
    """Count one file."""
    text = path.read_text(errors="replace")
    said = prose_of(path, text)
    sentences = [len(part.split()) for part in re.split(r"(?<=[.:!?])\s+|\n\s*\n|\n\s*[-*] ", said)]
    lines = text.splitlines()
    long_lines = [line for line in lines if len(line) > COLUMNS and not line.startswith(("|", "<!--"))]
    return Count(
        len(said.split()),
        said.count(";"),
        sum(words > LONG_SENTENCE for words in sentences),
        len(lines),
        len(long_lines),
    )


def main(arguments: list[str]) -> None:
    """Print the table of rooms and the worst files."""
    rooms = COMMAND.parse(arguments).names
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split()
    chosen = [name for name in listed if name.endswith((".py", ".md", *COMMENTS)) and not name.startswith(NOT_PROSE)]
    known = sorted({name.split("/")[0] for name in chosen if "/" in name})
    if unknown := [room for room in rooms if room not in known]:
        raise UserError(f"{unknown[0]} is not a folder of the repository{nearest(unknown[0], known)}")
    counts = {name: count(ROOT / name) for name in chosen if not rooms or name.split("/")[0] in rooms}
    of_rooms: Counter[str] = Counter(name.split("/")[0] if "/" in name else "top level" for name in counts)
    print(f"{'':44} {'words':>8} {'; per 1,000':>11} {'long sentences':>15} {'long lines':>12}")
    for room in sorted(of_rooms):
        print(
            sum(
                (one for name, one in counts.items() if (name.split("/")[0] if "/" in name else "top level") == room),
                Count(),
            ).row(room)
        )
    print(sum(counts.values(), Count()).row("all"))
    print("\nfiles that need most work:")
    for name, one in sorted(
        counts.items(), key=lambda item: -(item[1].semicolons + item[1].long_sentences + item[1].long_lines)
    )[:10]:
        print(one.row(name))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
