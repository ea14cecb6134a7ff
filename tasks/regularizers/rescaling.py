"""Weight rescaling in Adam, as in Omnigrok."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, baseline
from tasks.engine.section import Positive

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class Rescaling(Regularizer):
    whole_matrices = True

    factor: Positive
    include_norm: bool

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import RescaledAdam

        return RescaledAdam(model, factor=self.factor, include_norm=self.include_norm, **baseline(cfg))
