"""Turn run records into the paper's tables and figures."""

from results.artefact import Summary, write_artefact
from results.runs import Run

__all__ = ["Run", "Summary", "write_artefact"]
