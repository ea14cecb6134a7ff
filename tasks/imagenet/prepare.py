"""Prepare ImageNet, or download Fashion-MNIST (mini scale)."""

from tasks.data.images.prepare import DATA_SETS, prepare

__all__ = ["DATA_SETS", "prepare"]
