"""AdamW with cautious weight decay."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, baseline, decay
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class Cautious(Regularizer):
    weight_decay: NonNegative

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import CautiousAdamW

        return CautiousAdamW(model, weight_decay=decay(cfg, self.weight_decay), **baseline(cfg))
