"""Hyperball around Adam, AdamH: each matrix keeps the norm that it has at initialization."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, adam, groups
from tasks.engine.section import Positive

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class Hyperball(Regularizer):
    whole_matrices = True

    lr_ratio: Positive

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import torch

        from cpr import baselines

        return baselines.Hyperball(torch.optim.Adam(groups(cfg, model), **adam(cfg)), lr_ratio=self.lr_ratio)
