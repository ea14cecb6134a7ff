"""AdamW whose weight decay follows a cosine schedule."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, baseline, decay
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class AdamWSchedule(Regularizer):
    weight_decay: NonNegative
    final_factor: NonNegative

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import DecayScheduledAdamW

        decayed, final = decay(cfg, self.weight_decay), self.final_factor
        return DecayScheduledAdamW(model, cfg.num_steps, weight_decay=decayed, final_factor=final, **baseline(cfg))
