"""CPR around torch's SGD."""

from typing import TYPE_CHECKING

from tasks.engine.cpr_keys import CPR
from tasks.engine.regularizer import groups
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class SGDWithCPR(CPR):
    momentum: NonNegative
    nesterov: bool

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import torch

        import cpr

        sgd = torch.optim.SGD(groups(cfg, model), lr=cfg.lr, momentum=self.momentum, nesterov=self.nesterov)
        return cpr.CPR(sgd, **self.arguments(cfg))
