"""Look for keys of an artefact that don't fit each other, before any run.

Every check returns a message on the first fault, or None.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from results.published import FOLDER, published_rows
from results.schema import FIRST_FRESH_SEED, UNTUNED, Artefact, BaseClaim, BestClaim, SameClaim, names_of

Nearest = Callable[[str, Sequence[str]], str]

NEEDED: dict[str, tuple[str, ...]] = {
    "heatmap": ("metric", "row", "panels"),
    "curves": ("metric", "curves", "methods"),
    "budget": ("metric", "budget", "methods"),
    "pairs": ("pair", "parts"),
    "dynamics": ("dynamics", "methods"),
    "dose": ("metric", "dose", "methods"),
    "triggers": ("triggers", "methods"),
    "transfer": ("metric", "transfer", "methods"),
}
# The kinds of claims that a layout can examine.
KINDS_OF: dict[str, tuple[str, ...]] = {
    "heatmap": ("best", "share_near_best", "best_value", "same_values", "same_best"),
    "curves": ("sooner",),
    "budget": ("budget",),
    "pairs": ("same",),
    "dynamics": (),
    "dose": (),
    "triggers": (),
    "transfer": (),
}
BY_SCALE = ("notes", "near", "unit_steps", "progress.scores")  # one value for each scale
FOR_EVERY_SCALE = ("near", "unit_steps")


def inconsistency(artefact: Artefact, nearest: Nearest) -> str | None:
    """Return a message on the first inconsistency in the artefact, or None.

    Args:
        nearest: returns the end of a message about an unknown word.
    """
    return (
        _missing_key(artefact)
        or _unknown_scale(artefact, nearest)
        or _missing_scale(artefact)
        or _unfit_claim(artefact)
        or _unknown_side(artefact, nearest)
        or _unknown_method(artefact, nearest)
        or _unknown_column(artefact, nearest)
        or _unknown_control(artefact, nearest)
        or _seed_for_finalists(artefact)
    )


def _missing_key(artefact: Artefact) -> str | None:
    for key in NEEDED[artefact.layout]:
        if not getattr(artefact, key):
            return f"layout {artefact.layout} needs the key {key}"
    for scale, protocol in artefact.scales.items():
        for number, grid in enumerate(protocol.grids):
            if not (grid.task or artefact.task):
                return f"scales.{scale}.grids.{number} needs the key task, since the artefact has none"
    return None


def _unknown_scale(artefact: Artefact, nearest: Nearest) -> str | None:
    scales = list(artefact.scales)
    for key, value in _walk(artefact.model_dump(), ""):
        by_scale = isinstance(value, dict) and (key.endswith(BY_SCALE) or ".select." in key)
        named = key.endswith(".scales") and value
        if not (by_scale or named):
            continue
        for scale in value:
            if scale not in scales:
                said = f"unknown scale {key}.{scale}" if by_scale else f"{key}={scale} is unknown"
                return said + nearest(str(scale), scales)
    return None


def _missing_scale(artefact: Artefact) -> str | None:
    """Look for a value for each scale that lacks one of the scales at which it is used."""
    for group in [*artefact.panels, *artefact.methods]:
        for key, value in group.select.items():
            if lacking := _lacking(value, getattr(group, "scales", None) or artefact.scales):
                return f"{group.title!r}: select.{key} needs a value for scale {lacking}"
    rest = artefact.model_dump(exclude={"claims", "panels", "methods", "notes", "progress"})
    for key, value in _walk(rest, ""):
        if key.endswith(FOR_EVERY_SCALE) and (lacking := _lacking(value, artefact.scales)):
            return f"{key} needs a value for scale {lacking}"
    return None


def _lacking(value: Any, scales: Any) -> str | None:
    return next((scale for scale in scales if scale not in value), None) if isinstance(value, dict) else None


def _unfit_claim(artefact: Artefact) -> str | None:
    """Look for a claim that the layout can't examine, or that compares a side with itself."""
    kinds = KINDS_OF[artefact.layout]
    for claim in artefact.claims:
        if claim.kind not in kinds:
            allowed = f"its claims are {', '.join(kinds)}" if kinds else "it has no claims"
            return f"claim {claim.id!r}: kind {claim.kind} does not fit layout {artefact.layout}; {allowed}"
        if getattr(claim, "right", None) is not None and claim.left == claim.right:  # type: ignore[union-attr]
            return f"claim {claim.id!r}: left and right are the same"
    return None


def _unknown_side(artefact: Artefact, nearest: Nearest) -> str | None:
    """Look for a claim whose panels, methods or task the artefact does not have."""
    of_layout = {
        "heatmap": [panel.name for panel in artefact.panels],
        "pairs": [part.task for part in artefact.parts],
    }
    known = of_layout.get(artefact.layout, [method.title for method in artefact.methods])
    for claim in artefact.claims:
        for key, name in _sides(claim):
            if name not in known:
                return f"claim {claim.id!r}: {key}={name} is unknown{nearest(name, known)}"
    return None


def _sides(claim: BaseClaim) -> Iterator[tuple[str, str]]:
    """Yield each key of a claim that names a panel, method or task, with the name."""
    if isinstance(claim, SameClaim):
        yield "task", claim.task
    for key, value in claim:
        if key in ("left", "right", "reference"):
            yield from ((key, name) for name in names_of(value))
    if isinstance(claim, BestClaim):
        yield from ((f"chosen_by.{side}", name) for side, name in (claim.chosen_by or {}).items())


def _unknown_method(artefact: Artefact, nearest: Nearest) -> str | None:
    titles = [method.title for method in artefact.methods]
    named: dict[str, str] = {}
    if artefact.budget:
        named |= {"budget.reference": artefact.budget.reference, "budget.goal": artefact.budget.goal}
    if artefact.dose:
        named["dose.reference"] = artefact.dose.reference
    for key, title in named.items():
        if title not in titles:
            return f"{key}={title} is unknown{nearest(title, titles)}"
    return None


def _unknown_column(artefact: Artefact, nearest: Nearest) -> str | None:
    """Look for a panel that asks for a key that no published row has."""
    published = FOLDER / f"{artefact.name}.yaml"
    if not published.exists():
        return None
    columns = sorted({key for row in published_rows(published) for key in row})
    for panel in artefact.panels:
        for key in [*(panel.published or ()), *filter(None, [panel.published_column])]:
            if key not in columns:
                return f"panel {panel.title!r}: no published row has {key}{nearest(key, columns)}"
    return None


def _unknown_control(artefact: Artefact, nearest: Nearest) -> str | None:
    names = [panel.name for panel in artefact.panels]
    if artefact.control is not None and artefact.control.panel not in names:
        return f"control.panel={artefact.control.panel} is unknown{nearest(artefact.control.panel, names)}"
    return None


def _seed_for_finalists(artefact: Artefact) -> str | None:
    """Look for a seed that is kept for finalists, in a layout that chooses settings."""
    if artefact.layout in UNTUNED:
        return None
    for scale, protocol in artefact.scales.items():
        for seed in (*protocol.seeds, *(seed for grid in protocol.grids for seed in grid.seed or ())):
            if seed >= FIRST_FRESH_SEED:
                return f"scales.{scale}: seed {seed} must be below {FIRST_FRESH_SEED}: the others are the finalists'"
    return None


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every nested value with the path of keys that leads to it."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, one in inner:
        yield from _walk(one, f"{path}.{key}" if path else str(key))
