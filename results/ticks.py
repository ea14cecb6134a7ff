"""Learning rates and other numbers as people write them, such as 10⁻²·⁵. Markdown and CSV keep 1e-2.5."""

import math
import re

from results.runs import label
from results.schema import Artefact

SUPERSCRIPT = str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹")
NUMBER = re.compile(r"\b(\d+(?:\.\d+)?)e([-+]?\d+(?:\.\d+)?)\b")  # 1e-2.5 as tables have it, and Python's 3e-05


def typeset(text: str) -> str:
    """Replace each 1e-2.5 in a text by 10⁻²·⁵, 1e-3.0 by 10⁻³ and 3e-05 by 3×10⁻⁵."""
    return NUMBER.sub(lambda found: f"{_times(found, '×')}10{_exponent(found).translate(SUPERSCRIPT)}", text)


def in_math(text: str) -> str:
    """Replace each 1e-2.5 in a text by $10^{-2.5}$ and so on, for matplotlib and LaTeX."""
    times = r"\times"
    return NUMBER.sub(lambda found: f"${_times(found, times)}10^{{{_exponent(found)}}}$", text)


def lr_text(lr: float) -> str:
    """Return a learning rate in Unicode."""
    return typeset(_scientific(lr))


def lr_math(lr: float) -> str:
    """Return a learning rate in mathtext."""
    return in_math(_scientific(lr))


def row_ticks(artefact: Artefact, rows: list[float]) -> list[str]:
    """Return the mathtext of a heat map's rows."""
    return [lr_math(row) if artefact.row == "lr" else in_math(label(row)) for row in rows]


def _scientific(lr: float) -> str:
    """Return quarter decades as 1e-2.75, and other values below 0.01 as 3e-4."""
    if lr <= 0:
        return label(lr)
    quarters, exponent = 4 * math.log10(lr), math.floor(math.log10(lr))
    if abs(quarters - round(quarters)) < 0.02:  # the paper's 0.0003162 is a half decade
        return f"1e{round(quarters) / 4:g}"
    return f"{lr:g}" if lr >= 0.01 else f"{lr / 10**exponent:.4g}e{exponent}"


def _times(found: re.Match[str], sign: str) -> str:
    return "" if found[1] == "1" else found[1] + sign


def _exponent(found: re.Match[str]) -> str:
    return f"{float(found[2]):g}"
