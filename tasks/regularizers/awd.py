"""AWD, adaptive weight decay, in Adam."""

from typing import TYPE_CHECKING, Literal

from tasks.engine.regularizer import Regularizer, baseline, decay
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class AWD(Regularizer):
    whole_matrices = True

    weight_decay: NonNegative
    coupled: bool
    scope: Literal["global", "tensor"]

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import AdamAWD

        # A coupled decay is a share of each gradient for any number of steps. A decoupled one adds up
        # over the steps.
        decayed = self.weight_decay if self.coupled else decay(cfg, self.weight_decay)
        return AdamAWD(model, weight_decay=decayed, coupled=self.coupled, scope=self.scope, **baseline(cfg))
