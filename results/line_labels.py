"""Names of lines, written beside their ends."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

MOST = 6  # lines; more have a legend beside the axes
GAP = 5  # points between the axes and a label
WIDTH = 26  # letters in a line of a label


@dataclass(frozen=True)
class LineEnd:
    """The end of a line in data units, its name and its colour."""

    x: float
    y: float
    name: str
    colour: str


def name_lines(figure: Figure, axes: Axes, ends: Sequence[LineEnd], size: float = 8) -> None:
    """Write the names of up to six lines to the right of the axes, each at the height of its line's end.

    Names that would overlap are moved apart, with a thin line from the line's end to each. More
    lines get a legend to the right of the figure. Call this when the figure is complete, because the
    labels' places depend on its layout.
    """
    ends = [end for end in ends if math.isfinite(end.x) and math.isfinite(end.y)]
    if len(ends) > MOST:
        handles = [Line2D([], [], color=end.colour, lw=2, label=end.name) for end in ends]
        figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=size)
        return
    labels = [_label(axes, end, size) for end in ends]
    figure.draw_without_rendering()
    boxes, frame = [text_box(label) for label in labels], axes.get_window_extent()
    middles = [float(axes.transData.transform((end.x, end.y))[1]) for end in ends]
    wanted = [min(max(middle, frame.y0), frame.y1) for middle in middles]
    places = apart(wanted, [1.15 * box.height for box in boxes], frame.y0, frame.y1)
    for label, place in zip(labels, places, strict=True):
        label.set_position((1 + GAP * figure.dpi / 72 / frame.width, (place - frame.y0) / frame.height))


def text_box(label: Annotation) -> Bbox:
    """Return the box of a label in pixels, without the line that ties it to its place."""
    return Text.get_window_extent(label)


def _label(axes: Axes, end: LineEnd, size: float) -> Annotation:
    """Return a label at the right edge of the axes, tied to the line's end."""
    return axes.annotate(
        textwrap.fill(end.name, WIDTH),
        (end.x, end.y),
        xytext=(1.02, 0.5),
        textcoords="axes fraction",
        color=end.colour,
        fontsize=size,
        va="center",
        annotation_clip=False,
        arrowprops={
            "arrowstyle": "-",
            "color": end.colour,
            "lw": 0.6,
            "alpha": 0.7,
            "relpos": (0, 0.5),
            "shrinkA": 1,
            "shrinkB": 0,
        },
    )


def apart(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Return middles of boxes that don't overlap, as near to the wanted ones as they can be.

    The boxes keep their order and stay between low and high, if they fit. Of equal ones the first is
    on top.
    """
    order = sorted(range(len(wanted)), key=lambda number: (wanted[number], -number))
    above, total = {}, 0.0  # how far above the lowest box each one's middle is at least
    for number in order:
        above[number] = total + heights[number] / 2
        total += heights[number]
    # Without overlap, the lowest edges `wanted - above` never fall. Neighbours that do are merged at their mean.
    blocks: list[list[float]] = []  # sums and counts
    for number in order:
        blocks.append([wanted[number] - above[number], 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    edges = [value / count for value, count in blocks for _ in range(int(count))]
    places = [0.0] * len(wanted)
    for number, edge in zip(order, edges, strict=True):
        places[number] = max(low, min(edge, high - total)) + above[number]
    return places
