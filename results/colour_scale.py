"""Colours of heat maps: how much better or worse a cell is than the best cell of its baseline.

White is the baseline's best cell, blue is better, orange is worse. The scale is linear in the metric's
unit. It ends at the distance of the median cell, but not below three standard deviations over seeds and
not above eight. So a difference of one standard deviation spans at most a sixth of the colours, and one
of three is plain to see. Cells beyond the scale have the colour of its end. Where no standard deviation
is known, the scale ends at `metric.near` at least.

The baseline of a panel is chosen among the panels of the same metric and task settings (`comparable`):
  1. the panels that a claim names on its right side,
  2. else those with the regularizer of such a panel, or of the control's panel,
  3. else all of them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from results.heat_maps import HeatMap
from results.runs import best_cell, comparable
from results.schema import Artefact, Panel, names_of

WORSE, SAME, BETTER = "#E07B39", "#F7F7F7", "#3E95CB"
FEWEST, MOST = 3, 8  # standard deviations from the centre to an end of the scale


@dataclass(frozen=True)
class ColourScale:
    """The colours of some heat maps.

    limit: the distance to the baseline at an end of the scale, in the metric's unit, above 0.
    better_by: for each heat map how much better than the baseline its cells are, in the metric's
        unit. Negative is worse.
    centres: for each heat map the title of its baseline's best panel, and that panel's best cell.
    """

    limit: float
    better_by: list[pd.Series]
    centres: list[tuple[str, pd.Series] | None]


def colour_scale(artefact: Artefact, maps: Sequence[HeatMap]) -> ColourScale:
    """Return the colours of heat maps that share a scale. Each side (ours or published) has its own baseline."""
    sign, groups = 1 if artefact.metric.higher else -1, [_group(one, maps) for one in maps]
    centres = [_centre(artefact, group) for group in groups]
    better_by = [
        sign * (one.cells["mean"] - (math.nan if centre is None else centre[1]["mean"]))
        for one, centre in zip(maps, centres, strict=True)
    ]
    distances = pd.concat(better_by).abs()
    noise = max(pooled_std([one.cells for one in group], artefact.metric.higher) for group in groups)
    low, high = (FEWEST * noise, MOST * noise) if noise else (artefact.metric.near_at(artefact.scale), math.inf)
    median = distances[distances < math.inf].median()  # a score may be infinite
    return ColourScale(low if math.isnan(median) else min(max(low, median), high), better_by, centres)


def pooled_std(tables: Sequence[pd.DataFrame], higher: bool) -> float:
    """Return the standard deviation over seeds, pooled over the better half of the tables' cells.

    A learning rate that is too high has a spread of its own, far above that of the cells which are
    compared. It is 0 if no cell has a standard deviation.
    """
    cells = pd.concat(tables, ignore_index=True).dropna(subset=["mean", "std"])
    ranks = cells["mean"].rank(ascending=not higher, method="first")
    better = cells[ranks <= math.ceil(len(cells) / 2)]
    freedom = (better["seeds"] - 1).clip(lower=1)
    return math.sqrt((freedom * better["std"] ** 2).sum() / freedom.sum()) if len(better) else 0.0


def _group(one: HeatMap, maps: Sequence[HeatMap]) -> list[HeatMap]:
    """Return the heat maps of one's side with its metric and task settings."""
    return [other for other in maps if other.side == one.side and comparable(other.panel) == comparable(one.panel)]


def baseline(artefact: Artefact, group: Sequence[Panel]) -> list[Panel]:
    """Return the panels among comparable ones that the others are compared with."""
    sides = [claim.right for claim in artefact.claims if hasattr(claim, "right")]
    named = set(itertools.chain.from_iterable(names_of(side) for side in sides))
    if found := [panel for panel in group if panel.name in named]:
        return found
    named |= {artefact.control.panel} if artefact.control else set()
    regularizers = {panel.regularizer for panel in artefact.panels if panel.name in named}
    return [panel for panel in group if panel.regularizer in regularizers] or list(group)


def _centre(artefact: Artefact, group: Sequence[HeatMap]) -> tuple[str, pd.Series] | None:
    """Return the best cell of a group's baseline, with its panel's title."""
    chosen = baseline(artefact, [one.panel for one in group])
    cells = [one.cells.assign(title=one.panel.title) for one in group if one.panel in chosen and one.best is not None]
    best = best_cell(pd.concat(cells, ignore_index=True), artefact.metric.better) if cells else None
    return None if best is None else (str(best["title"]), best)
