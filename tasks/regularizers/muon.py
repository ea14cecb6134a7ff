"""Muon with decoupled weight decay on the regularized matrices, AdamW on all other parameters."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, groups
from tasks.engine.section import BelowOne, NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class Muon(Regularizer):
    whole_matrices = True

    weight_decay: NonNegative
    momentum: BelowOne
    nesterov: bool

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from tasks.engine.muon import muon

        return muon(cfg, groups(cfg, model, self.weight_decay), self.momentum, self.nesterov)
