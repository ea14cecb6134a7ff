"""Schedule-free AdamW, with decoupled weight decay."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, adam, groups
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class ScheduleFreeAdamW(Regularizer):
    weight_decay: NonNegative

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import schedulefree

        from tasks.engine.schedule_free import require_constant

        require_constant(cfg)
        return schedulefree.AdamWScheduleFree(groups(cfg, model, self.weight_decay), **adam(cfg))
