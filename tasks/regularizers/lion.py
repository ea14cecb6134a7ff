"""timm's Lion with decoupled weight decay."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, groups
from tasks.engine.section import BelowOne, NonNegative, Pair

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class Lion(Regularizer):
    weight_decay: NonNegative
    betas: Pair[BelowOne]

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from timm.optim import Lion

        return Lion(groups(cfg, model, self.weight_decay), lr=cfg.lr, betas=self.betas)
