"""AdaDecay in Adam."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, baseline, decay
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class AdaDecay(Regularizer):
    weight_decay: NonNegative
    alpha: NonNegative

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import AdamAdaDecay

        decayed = decay(cfg, self.weight_decay)
        return AdamAdaDecay(model, weight_decay=decayed, alpha=self.alpha, **baseline(cfg))
