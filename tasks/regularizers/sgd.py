"""torch's SGD with coupled weight decay."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, groups
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class SGD(Regularizer):
    momentum: NonNegative
    nesterov: bool
    weight_decay: NonNegative

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import torch

        decayed = groups(cfg, model, self.weight_decay)
        return torch.optim.SGD(decayed, lr=cfg.lr, momentum=self.momentum, nesterov=self.nesterov)
