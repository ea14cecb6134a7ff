"""CPR around timm's Lion."""

from typing import TYPE_CHECKING

from tasks.engine.cpr_keys import CPR
from tasks.engine.regularizer import groups
from tasks.engine.section import BelowOne, Pair

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class LionWithCPR(CPR):
    betas: Pair[BelowOne]

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from timm.optim import Lion

        import cpr

        return cpr.CPR(Lion(groups(cfg, model), lr=cfg.lr, betas=self.betas), **self.arguments(cfg))
