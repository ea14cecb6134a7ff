"""Tables as LaTeX. The file needs booktabs, and longtable for a table that is longer than a page.

Numbers of a column are filled up with \\phantom to the same digits before and after the point, so that
a centred column is aligned on the decimal point.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from results.table import Table
from results.ticks import in_math

HEAD = "% Needs \\usepackage{booktabs}, and longtable for tables longer than a page. Numbers are aligned without a package.\n"
PAGE = 45  # rows
SYMBOLS = {"±": "pm", "×": "times", "≤": "le", "→": "to", "Δ": "Delta"}
GREEK = {"α": "alpha", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "µ": "mu"}
IN_TEXT = str.maketrans(
    {letter: f"$\\{name}$" for letter, name in (SYMBOLS | GREEK).items()}
    | {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {
        "<": "$<$",
        ">": "$>$",
        "−": "$-$",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
NUMBER = re.compile(r"([+-]?)(\d[\d,]*)(?:\.(\d+))?(?: ± (\d+)(?:\.(\d+))?)?(?: \((.*)\))?")
SEEDS = re.compile(r"\d+ seeds?")
WITHOUT = ("", "-", "diverged", "missing", "TBA")  # what stands in a column of numbers in place of one


@dataclass(frozen=True)
class Cell:
    """A number with its standard deviation and a note, as the texts before and after the points."""

    sign: str
    whole: str
    digits: str
    std_whole: str
    std_digits: str
    note: str

    @property
    def value(self) -> float:
        return float(f"{self.sign}{self.whole.replace(',', '')}.{self.digits or 0}")


def latex(tables: Sequence[Table], name: str, about: str) -> str:
    """Return tables in ASCII, the first one with the label tab:<name>.

    Args:
        name: of the artefact.
        about: the start of each caption, such as the artefact's title and its data.
    """
    labels = [
        re.sub("[^A-Za-z0-9]+", "-", text) for text in (name, *(f"{name}-{one.title.lower()}" for one in tables[1:]))
    ]
    return HEAD + "\n".join(_environment(one, label, about) for one, label in zip(tables, labels, strict=True))


def _environment(table: Table, label: str, about: str) -> str:
    rows = table.rows.astype(object).where(table.rows.notna(), "-").map(str)
    columns = [_column(table, rows, name) for name in rows]
    heads = [head for head, _, _ in columns]
    body = [" & ".join(cells) + r" \\" for cells in zip(*(cells for _, _, cells in columns), strict=True)]
    first = list(rows.iloc[:, 0]) if len(rows.columns) else []
    blocks = len(set(first)) < len(first) and sorted(first, key=first.index) == first
    lines = [
        f"\\addlinespace\n{line}" if blocks and number and first[number] != first[number - 1] else line
        for number, line in enumerate(body)
    ]
    said = {
        table.title: table.title != "Table",
        "± is the standard deviation over seeds": any(rows[name].str.contains("±").any() for name in rows),
        "The best value is in bold": bool(table.best),
    }
    words = [about, *(sentence for sentence, holds in said.items() if holds)]
    caption = f"\\caption{{{_escaped('. '.join(words))}.}}"
    spec, head = "".join(spec for _, spec, _ in columns), " & ".join(heads) + r" \\"
    if len(rows) > PAGE:
        start = [f"\\begin{{longtable}}{{{spec}}}", caption, f"\\label{{tab:{label}}} \\\\"]
        return "\n".join(
            [*start, r"\toprule", head, r"\midrule", r"\endhead", *lines, r"\bottomrule", r"\end{longtable}", ""]
        )
    start = [r"\begin{table}[htbp]", r"\centering", caption, f"\\label{{tab:{label}}}", f"\\begin{{tabular}}{{{spec}}}"]
    end = [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join([*start, r"\toprule", head, r"\midrule", *lines, *end])


def _column(table: Table, rows: pd.DataFrame, name: str) -> tuple[str, str, list[str]]:
    """Return a column's head, its alignment and its cells. Numbers with notes have two places in a row."""
    texts, head = list(rows[name]), _escaped(str(name))
    cells = [_cell(text) for text in texts]
    words = [_words(text) for text in texts]
    if not any(cells) or any(
        cell is None and word not in WITHOUT for cell, (word, _) in zip(cells, words, strict=True)
    ):
        return head, "l", [_escaped(text) for text in texts]
    bold = _best(table, name, cells)
    usual = Counter(cell.note for cell in cells if cell).most_common(1)[0][0]  # seeds are in the caption
    notes = ["" if note == usual and SEEDS.fullmatch(usual) else note for _, note in words]
    numbers = [
        _number(cell, cells, place in bold) if cell else _escaped(word) or "-"
        for place, (cell, (word, _)) in enumerate(zip(cells, words, strict=True))
    ]
    if not any(notes):
        return head, "c", numbers
    noted = [f"{number} & {f'({_escaped(note)})' if note else ''}" for number, note in zip(numbers, notes, strict=True)]
    return f"\\multicolumn{{2}}{{c}}{{{head}}}", r"c@{\ }l", noted


def _words(text: str) -> tuple[str, str]:
    """Return a text and the note in brackets at its end."""
    word, _, note = text.partition(" (")
    return word, note.removesuffix(")")


def _cell(text: str) -> Cell | None:
    found = NUMBER.fullmatch(text)
    return Cell(*(part or "" for part in found.groups())) if found else None


def _number(cell: Cell, column: Sequence[Cell | None], bold: bool) -> str:
    """Return a number as wide as the others of its column, before and after the points."""

    def longest(part: str) -> str:
        return max((getattr(other, part) for other in column if other), key=len)

    sign = f"${cell.sign}$" if cell.sign else _blank("$-$" if longest("sign") else "")
    text = sign + cell.whole + (f".{cell.digits}" if cell.digits else "")
    text = _before(cell.whole, longest("whole")) + (f"\\textbf{{{text}}}" if bold else text)
    text += _after(cell.digits, longest("digits"))
    wholes, digits = longest("std_whole"), longest("std_digits")
    if not wholes:
        return text
    if not cell.std_whole:
        return text + _blank(f" $\\pm$ {wholes}" + (f".{digits}" if digits else ""))
    std = cell.std_whole + (f".{cell.std_digits}" if cell.std_digits else "")
    return f"{text} $\\pm$ {_before(cell.std_whole, wholes)}{std}{_after(cell.std_digits, digits)}"


def _before(whole: str, longest: str) -> str:
    return _blank(longest[: len(longest) - len(whole)])


def _after(digits: str, longest: str) -> str:
    missing = longest[len(digits) :]
    return _blank(missing if digits or not missing else f".{missing}")


def _blank(text: str) -> str:
    """Return an invisible text. All digits have the same width."""
    return f"\\phantom{{{text}}}" if text else ""


def _best(table: Table, name: str, cells: Sequence[Cell | None]) -> set[int]:
    """Return the rows with a column's best number in each group. A number with diverged runs is not the best."""
    if name not in table.best:
        return set()
    sign, best = {"higher": 1, "lower": -1}[table.best[name]], dict[object, float]()
    values = [sign * cell.value if cell and "diverged" not in cell.note else None for cell in cells]
    groups = table.groups or [0] * len(cells)
    for group, value in zip(groups, values, strict=True):
        if value is not None:
            best[group] = max(best.get(group, value), value)
    return {
        row
        for row, (group, value) in enumerate(zip(groups, values, strict=True))
        if value is not None and value == best[group]
    }


def _escaped(text: str) -> str:
    """Return a text in ASCII with LaTeX's special characters escaped, and 1e-2.5 as a power of ten."""
    return in_math(text.translate(IN_TEXT))
