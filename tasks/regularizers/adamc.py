"""AdamC: AdamW whose decay is proportional to the square of the learning rate."""

from typing import TYPE_CHECKING

from tasks.engine.errors import UserError
from tasks.engine.regularizer import Regularizer, baseline, decay
from tasks.engine.section import NonNegative

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config


class AdamC(Regularizer):
    weight_decay: NonNegative
    output: str | None

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        from cpr.baselines import AdamC

        decayed = decay(cfg, self.weight_decay)
        return AdamC(model, weight_decay=decayed, lr_max=cfg.lr, output=self._output(model), **baseline(cfg))

    def _output(self, model: "nn.Module") -> "nn.Module | None":
        try:
            return None if self.output is None else model.get_submodule(self.output)
        except AttributeError as error:
            layers = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"regularizer.output={self.output} is no layer of the model; it has {layers}") from error
