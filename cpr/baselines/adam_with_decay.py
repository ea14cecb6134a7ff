"""Adam with its own decay rule for regularized weights: the base of AdaDecay, AWD and the decay schedule."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cpr.adamcpr import Params
from cpr.baselines.common import plain_adam_step
from cpr.groups import regularized_groups
from cpr.saved import check_shapes
from cpr.settings import check_adam, check_number, require_regularized, require_said


class AdamWithDecay(torch.optim.Adam, ABC):
    """θ ← θ − η·D(θ, g) − η·a on regularized groups, θ ← θ − η·a on the others.

    a = m̂/(√v̂ + eps), and D is the subclass's rule. Adam's own step depends on gradients only, so
    decaying first and then taking torch's step is exact.

    Args:
        params: a model, or parameter groups with the key `regularize: bool`. cpr.groups says which
            parameters of a model are regularized. Groups built for weight decay work too: those with
            weight_decay != 0 are regularized.
        lr, betas, eps: as in torch's Adam.
        weight_decay: the rule's coefficient >= 0. A group's own `weight_decay` overrides it.
        reg_embedding: whether nn.Embedding counts as a weight (only if `params` is a model).
        settings: the rule's other entries of a parameter group.

    Raises:
        ValueError: an argument out of its range, weight decay beside regularize=False, or nothing to regularize.

    A group's coefficient is its entry `decay`. Its `weight_decay`, which torch's step would add to the
    gradient, is 0.
    """

    def __init__(
        self,
        params: Params,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        reg_embedding: bool,
        **settings: Any,
    ) -> None:
        if isinstance(params, nn.Module):
            params = regularized_groups(params, reg_embedding)
        check_adam({"lr": lr, "betas": betas, "eps": eps})
        own = {"decay": weight_decay, **settings}
        groups = [own | (given if isinstance(given, dict) else {"params": [given]}) for given in params]
        super().__init__(groups, lr=lr, betas=betas, eps=eps)
        self.defaults |= own
        require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Its key `regularize` says whether its parameters are decayed."""
        group = dict(param_group)
        require_said(group)
        decay = group.pop("weight_decay", None)
        group.setdefault("regularize", bool(decay))
        if decay and not group["regularize"]:
            raise ValueError(
                f"weight_decay={decay} on a group with regularize=False. Set it to 0, or regularize the group"
            )
        if decay is not None:
            group["decay"] = decay
        super().add_param_group(group)
        self._check_group(self.param_groups[-1])

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for a setting out of its range. A subclass adds its own settings."""
        check_number("weight_decay", group["decay"], lambda decay: 0 <= decay < float("inf"), "a number >= 0")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Decay, then do Adam's step, for every parameter that has a gradient.

        Return the closure's loss, if one is given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch does.

        Raises:
            ValueError: a moment has another shape than its parameter. The message names the moment.
        """
        check_shapes(self, state_dict)
        super().load_state_dict(state_dict)

    def _update(self) -> None:
        for group in self.param_groups:
            if group["weight_decay"]:
                raise ValueError(
                    f"weight_decay={group['weight_decay']} in a group of {type(self).__name__}. "
                    "Change the group's entry 'decay' instead"
                )
        self._decay()
        plain_adam_step()(self)

    @abstractmethod
    def _decay(self) -> None:
        """θ ← θ − η·D(θ, g), in place."""

    def _decayed(self) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
        """Yield every regularized group with those of its parameters that have a gradient."""
        for group in self.param_groups:
            if group["regularize"]:
                yield group, [p for p in group["params"] if p.grad is not None]
