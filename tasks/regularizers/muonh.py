"""Hyperball around Muon, MuonH."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, groups
from tasks.engine.section import BelowOne, Positive

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class MuonH(Regularizer):
    whole_matrices = True

    lr_ratio: Positive
    momentum: BelowOne
    nesterov: bool

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import Hyperball
        from tasks.engine.muon import muon

        return Hyperball(muon(cfg, groups(cfg, model), self.momentum, self.nesterov), lr_ratio=self.lr_ratio)
