"""Learning rates as people write them, such as 10⁻²·⁵. Markdown and CSV keep 1e-2.5 (`power_of_ten`)."""

import re

from results.runs import power_of_ten, row_value
from results.schema import Artefact

SUPERSCRIPT = str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹")
POWER = re.compile(r"\b1e(-?\d+)\.(\d)\b")  # as `power_of_ten` prints it


def typeset(text: str) -> str:
    """Replace each 1e-2.5 in a text by 10⁻²·⁵, and 1e-3.0 by 10⁻³."""
    return POWER.sub(lambda found: "10" + _exponent(found).translate(SUPERSCRIPT), text)


def in_math(text: str) -> str:
    """Replace each 1e-2.5 in a text by $10^{-2.5}$, for matplotlib and LaTeX."""
    return POWER.sub(lambda found: f"$10^{{{_exponent(found)}}}$", text)


def lr_text(lr: float) -> str:
    """Return a learning rate in Unicode. One that is no half decade is a decimal number."""
    return typeset(power_of_ten(lr))


def lr_math(lr: float) -> str:
    """Return a learning rate in mathtext."""
    return in_math(power_of_ten(lr))


def row_ticks(artefact: Artefact, rows: list[float]) -> list[str]:
    """Return the mathtext of a heat map's rows."""
    return [in_math(row_value(artefact, row)) for row in rows]


def _exponent(found: re.Match[str]) -> str:
    return found[1] if found[2] == "0" else f"{found[1]}.{found[2]}"
