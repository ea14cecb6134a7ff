"""Constrained Parameter Regularization (arXiv 2311.09058): an upper bound on every weight matrix in place of weight decay."""

from cpr.adamcpr import AdamCPR
from cpr.groups import regularized_groups, regularized_names
from cpr.wrapper import CPR

__all__ = ["CPR", "AdamCPR", "regularized_groups", "regularized_names"]
