"""AdamCPR: Adam with CPR in one step."""

from typing import TYPE_CHECKING

from tasks.engine.cpr_keys import CPR
from tasks.engine.regularizer import adam, groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class AdamCPR(CPR):
    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import cpr

        return cpr.AdamCPR(groups(cfg, model), **adam(cfg), **self.arguments(cfg))
