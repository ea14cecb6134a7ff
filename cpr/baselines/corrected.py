"""AdamC (arXiv 2506.02285): a weight decay that follows the square of the scheduled learning rate."""

from typing import Any

from torch import nn

from cpr.adamcpr import Params
from cpr.baselines.adam_with_decay import AdamWithDecay
from cpr.groups import regularized_groups
from cpr.settings import check_number


class AdamC(AdamWithDecay):
    """θ ← θ − η·a − (η²/η_max)·wd·θ on corrected groups, θ ← θ − η·a − η·wd·θ on the others.

    Source: Algorithm 1 of arXiv 2506.02285. It corrects layers that a normalization follows. The authors'
    Llama 3 counts every linear layer as such a layer, except the output layer, with wd = 0.05. Its
    abstract, another reader's notes of the full text (v2) and a quotation in arXiv 2512.08217 were read,
    and not the text itself. They agree with the formula. The author's later code (schedulefree's
    adamc_schedulefree_plus_paper.py) decays by η²·wd without η_max, so that its wd is 20 to 50.

    With all layers corrected the decay is proportional to η² everywhere. arXiv 2512.08217 derives that
    for any optimizer whose updates become independent of the weights. Of it the abstract, the
    beginning and the same reader's notes were read. Its own optimizer, ScionC, sets a coefficient per
    layer from the momentum and the norm of the update. That is not here.

    Args:
        params, lr, betas, eps, reg_embedding: see AdamWithDecay. A group's own entry
            `corrected: bool` says whether it is corrected.
        weight_decay: wd >= 0.
        lr_max: η_max > 0, the schedule's highest lr. None is `lr`.
        output: the output layer, which is not corrected (only if `params` is a model). None corrects all.

    Raises:
        ValueError: see AdamWithDecay, `lr_max` is out of its range, `corrected` is not a bool, or
            `output` has no parameter among the regularized ones of a model.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        lr_max: float | None = None,
        output: nn.Module | None = None,
        reg_embedding: bool = False,
    ) -> None:
        if output is not None:
            if not isinstance(params, nn.Module):
                raise ValueError("output= needs a model as params. Give the output layer's group corrected=False")
            params = _without_output(regularized_groups(params, reg_embedding), output)
        highest = lr if lr_max is None else lr_max
        super().__init__(params, lr, betas, eps, weight_decay, reg_embedding, lr_max=highest, corrected=True)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number("lr_max", group["lr_max"], lambda lr: 0 < lr < float("inf"), "a number > 0")
        if not isinstance(group["corrected"], bool):
            raise ValueError(f"corrected={group['corrected']!r} must be True or False")

    def _decay(self) -> None:
        for group, weights in self._decayed():
            share = group["lr"] / group["lr_max"] if group["corrected"] else 1
            for weight in weights:
                weight.mul_(1 - group["lr"] * group["decay"] * share)


def _without_output(groups: list[dict[str, Any]], output: nn.Module) -> list[dict[str, Any]]:
    """Move the regularized parameters of the output layer to groups with corrected=False."""
    last = {id(p) for p in output.parameters()}
    if not any(group["regularize"] and id(p) in last for group in groups for p in group["params"]):
        raise ValueError(
            f"output={type(output).__name__} has no regularized parameter of the model. Pass a layer of it"
        )
    split = []
    for group in groups:
        for corrected in (True, False):
            some = [p for p in group["params"] if (id(p) not in last or not group["regularize"]) == corrected]
            if some:
                split.append(group | {"params": some, "corrected": corrected})
    return split
