"""AMOS, which has its own learning rate for each parameter."""

from typing import TYPE_CHECKING

from tasks.engine.regularizer import Regularizer, decay
from tasks.engine.section import BelowOne, NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class AMOS(Regularizer):
    whole_matrices = True

    beta: BelowOne
    extra_l2: NonNegative
    legacy_sign: bool

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr import baselines

        # This decay is not multiplied by lr, but adds up over the steps like a decoupled decay. The
        # multiplier compensates for their number here too.
        decayed, embedding = decay(cfg, self.extra_l2), cfg.task.reg_embedding
        options = {"legacy_sign": self.legacy_sign, "reg_embedding": embedding}
        return baselines.AMOS(model, cfg.lr, beta=self.beta, extra_l2=decayed, **options)
