"""AdamHD (arXiv 2511.14721): elements above a threshold all decay by the same amount."""

from typing import Any

from cpr.adamcpr import Params
from cpr.baselines.adam_with_decay import AdamWithDecay
from cpr.settings import check_number


class AdamHD(AdamWithDecay):
    """θ ← θ − η·a − η·wd·clip(θ, −δ, δ), the gradient of a Huber penalty on θ.

    Source: arXiv 2511.14721. Its abstract and summaries by others were read, and not the rest of its
    text. The summaries agree on the penalty, and one of them on two differences. The authors' step is
    the proximal one after Adam's, θ/(1 + η·wd) up to (1 + η·wd)·δ and θ − η·wd·δ·sign θ beyond. It
    differs from the step here in terms of second order in η. Their δ follows a running mean of each
    layer's magnitudes, by a rule that was not seen. Here δ is a constant.

    Args:
        params, lr, betas, eps, reg_embedding: see AdamWithDecay.
        weight_decay: wd >= 0.
        delta: δ > 0, the size of an element from which the decay is constant. The default is ours.

    Raises:
        ValueError: see AdamWithDecay, or `delta` is out of its range.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        delta: float = 0.1,
        reg_embedding: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, reg_embedding, delta=delta)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number("delta", group["delta"], lambda delta: 0 < delta < float("inf"), "a number > 0")

    def _decay(self) -> None:
        for group, weights in self._decayed():
            for weight in weights:
                weight.sub_(weight.clamp(-group["delta"], group["delta"]), alpha=group["lr"] * group["decay"])
