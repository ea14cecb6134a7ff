"""Draw curves with characters."""

import math
import shutil
from collections.abc import Mapping, Sequence

from uniplot import plot_to_string

LETTERS = "ABCDEFGH"  # more curves could not be told apart


def curve(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return the lines drawn over their steps, as wide as the terminal (at most 100 columns).
    Several lines are drawn with the first character of their names. Points that are not finite are
    left out. A line without any finite point is not drawn.
    """
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in lines.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return f"{title}: no values"
    xs, ys = ([[point[axis] for point in points] for points in finite.values()] for axis in (0, 1))
    marks = (
        {"legend_labels": list(finite), "character_set": "ascii", "force_ascii_characters": list(finite)}
        if len(finite) > 1
        else {}
    )
    width = min(100, shutil.get_terminal_size().columns) - 20
    drawn = plot_to_string(ys, xs, title=title, width=max(20, width), height=10, lines=True, color=False, **marks)
    return str(drawn)
