"""Methods that the paper compares CPR with."""

from cpr.baselines.rescaling import RescaledAdam

__all__ = ["RescaledAdam"]
