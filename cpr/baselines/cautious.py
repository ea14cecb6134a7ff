"""AdamW with cautious weight decay (arXiv 2510.12402): an element decays only where Adam shrinks it too."""

from typing import Any

from torch import Tensor

from cpr.adamcpr import Params
from cpr.baselines.adam_with_decay import AdamWithDecay


class CautiousAdamW(AdamWithDecay):
    """θ ← θ − η·(a + wd·1[a·θ ≥ 0]·θ), element by element, with a and θ of the present step.

    Source: Algorithms 1 and 6 of arXiv 2510.12402v2, which was read without its proofs. The mask has
    the sign of the first moment after the step and θ before it. The authors tune AdamW and take over all
    of its settings (β 0.9 and 0.95, a linear warm-up, a cosine, wd = 0.1 at 1B parameters). In their
    sweep the best wd is the same with the mask. They don't say which parameters decay.

    Args:
        params, lr, betas, eps, reg_embedding: see AdamWithDecay.
        weight_decay: wd >= 0, as for AdamW.

    Raises:
        ValueError: see AdamWithDecay.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        reg_embedding: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, reg_embedding)

    def _decay(self) -> None:
        for group, weights in self._decayed():
            for weight in weights:
                agree = self._sign(weight, group) * weight.sign() >= 0
                weight.mul_(1 - group["lr"] * group["decay"] * agree.to(weight.dtype))

    def _sign(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the sign of a, which is that of Adam's first moment after this step."""
        assert weight.grad is not None
        gradient = -weight.grad if group["maximize"] else weight.grad
        moment = self.state[weight].get("exp_avg") if weight in self.state else None
        return (gradient if moment is None else moment.lerp(gradient, 1 - group["betas"][0])).sign()
