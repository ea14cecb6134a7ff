"""Constrained Parameter Regularization (arXiv 2311.09058).

It puts an upper bound on every weight matrix in place of weight decay.
"""

from cpr._version import __version__
from cpr.adamcpr import AdamCPR
from cpr.groups import describe, regularized_groups, regularized_names
from cpr.report import Bound, snapshot
from cpr.wrapper import CPR

__all__ = ["CPR", "AdamCPR", "Bound", "__version__", "describe", "regularized_groups", "regularized_names", "snapshot"]
