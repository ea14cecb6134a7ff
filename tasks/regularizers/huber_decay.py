"""AdamHD: AdamW whose decay is constant for large elements."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, baseline, decay
from tasks.engine.section import NonNegative, Positive

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class HuberDecay(Regularizer):
    weight_decay: NonNegative
    delta: Positive

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import AdamHD

        return AdamHD(model, weight_decay=decay(cfg, self.weight_decay), delta=self.delta, **baseline(cfg))
