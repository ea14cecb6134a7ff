"""Schedule-free AdamCPR: CPR bounds the weights that are stepped, and so their average."""

from typing import TYPE_CHECKING

from tasks.engine.cpr_keys import CPR
from tasks.engine.regularizer import adam, groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class ScheduleFreeAdamCPR(CPR):
    whole_matrices = True

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        import cpr
        from tasks.engine.schedule_free import ScheduleFree, require_constant

        require_constant(cfg)
        momentum, decay = cfg.task.betas  # the average takes the place of Adam's first moment
        base = cpr.AdamCPR(groups(cfg, model), **adam(cfg) | {"betas": (0.0, decay)}, **self.arguments(cfg))
        return ScheduleFree(base, momentum=momentum)  # type: ignore[return-value]  # it is no torch Optimizer
