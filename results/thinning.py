"""Keep a few rows of a run's logs: what tables, figures and committed records are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_SIZES = 51  # rows of dynamics.jsonl: the one at initialization, and 50 more
MOST_LOSSES = 50  # rows of metrics.jsonl with a training loss

Rows = Sequence[Mapping[str, Any]]


def evenly(count: int, most: int) -> Sequence[int]:
    """Return at most `most` evenly spaced places among `count`, always with the last."""
    if count <= most:
        return range(count)
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})


def thin_dynamics(rows: Rows) -> Rows:
    """Return a log's line of names and at most MOST_SIZES of its rows. Thinning twice changes nothing.

    The first and the last row stay, those in which a matrix first has a κ, and those with the largest λ and
    the largest R / κ. Only these can exceed MOST_SIZES. The others are evenly spaced.
    """
    if len(rows) <= MOST_SIZES + 1:
        return rows
    names, *sizes = rows
    kept = {0, len(sizes) - 1, *_first_bounds(sizes), *_largest(sizes)}
    others = [place for place in range(len(sizes)) if place not in kept]
    free = MOST_SIZES - len(kept)
    kept |= {others[place] for place in evenly(len(others), free)} if free > 0 else set()
    return [names, *(sizes[place] for place in sorted(kept))]


def _first_bounds(rows: Rows) -> set[int]:
    found: dict[int, int] = {}
    for place, row in enumerate(rows):
        for matrix, kappa in enumerate(row.get("kappa", ())):
            if kappa is not None:
                found.setdefault(matrix, place)
    return set(found.values())


def _largest(rows: Rows) -> set[int]:
    """Return the places after the first row of the largest λ and of the largest R / κ of any matrix."""
    pressed = [max((value for value in row.get("lambda", ()) if value is not None), default=0.0) for row in rows[1:]]
    sizes = [max(quotients(row["R"], row.get("kappa", ())), default=0.0) for row in rows[1:]]
    return {1 + values.index(max(values)) for values in (pressed, sizes)}


def quotients(values: Sequence[Any], by: Sequence[Any]) -> list[float]:
    """Return the quotients of two lists, without those that lack a value. `by` may be empty."""
    return [value / one for value, one in zip(values, by, strict=bool(by)) if value is not None and one]


def thin_metrics(rows: Rows) -> Rows:
    """Return all evaluations of a log, and at most MOST_LOSSES evenly spaced rows of its training losses."""
    losses = [place for place, row in enumerate(rows) if is_loss(row)]
    dropped = set(losses) - {losses[place] for place in evenly(len(losses), MOST_LOSSES)}
    return [row for place, row in enumerate(rows) if place not in dropped] if dropped else rows


def is_loss(row: Mapping[str, Any]) -> bool:
    """Return whether a row of metrics.jsonl is a training loss. The others are evaluations."""
    return row.keys() == {"step", "loss", "lr"}
