"""Learning rates and other numbers as people write them, such as 10⁻²·⁵. Markdown and CSV keep 1e-2.5 (`power_of_ten`)."""

import re

from results.runs import power_of_ten, row_value
from results.schema import Artefact

SUPERSCRIPT = str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹")
NUMBER = re.compile(r"\b(\d+(?:\.\d+)?)e([-+]?\d+(?:\.\d)?)\b")  # 1e-2.5 of `power_of_ten`, and Python's 3e-05


def typeset(text: str) -> str:
    """Replace each 1e-2.5 in a text by 10⁻²·⁵, 1e-3.0 by 10⁻³ and 3e-05 by 3×10⁻⁵."""
    return NUMBER.sub(lambda found: f"{_times(found, '×')}10{_exponent(found).translate(SUPERSCRIPT)}", text)


def in_math(text: str) -> str:
    """Replace each 1e-2.5 in a text by $10^{-2.5}$ and so on, for matplotlib and LaTeX."""
    times = r"\times"
    return NUMBER.sub(lambda found: f"${_times(found, times)}10^{{{_exponent(found)}}}$", text)


def lr_text(lr: float) -> str:
    """Return a learning rate in Unicode. One that is no half decade is a decimal number."""
    return typeset(power_of_ten(lr))


def lr_math(lr: float) -> str:
    """Return a learning rate in mathtext."""
    return in_math(power_of_ten(lr))


def row_ticks(artefact: Artefact, rows: list[float]) -> list[str]:
    """Return the mathtext of a heat map's rows."""
    return [in_math(row_value(artefact, row)) for row in rows]


def _times(found: re.Match[str], sign: str) -> str:
    return "" if found[1] == "1" else found[1] + sign


def _exponent(found: re.Match[str]) -> str:
    return f"{float(found[2]):g}"
