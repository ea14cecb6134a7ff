"""Turn run records into the paper's tables and figures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.artefact import Summary, write_artefact
    from results.runs import Run

__all__ = ["Run", "Summary", "write_artefact"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used. matplotlib and scipy would slow down commands that draw nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from results import artefact, runs

    return getattr(runs if name == "Run" else artefact, name)
