"""CPR around Muon."""

from typing import TYPE_CHECKING

from tasks.engine.cpr_keys import CPR
from tasks.engine.regularizer import groups
from tasks.engine.section import BelowOne

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class MuonWithCPR(CPR):
    whole_matrices = True

    momentum: BelowOne
    nesterov: bool

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import cpr
        from tasks.engine.muon import muon

        return cpr.CPR(muon(cfg, groups(cfg, model), self.momentum, self.nesterov), **self.arguments(cfg))
