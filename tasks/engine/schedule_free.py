"""Schedule-free training (arXiv 2405.15682): the evaluated weights are an average of those that are stepped."""

from collections.abc import Callable
from typing import Any

import schedulefree

from tasks.engine.config import Config
from tasks.engine.errors import UserError


class ScheduleFree(schedulefree.ScheduleFreeWrapper):
    """schedulefree's wrapper of an optimizer. A loaded state is one of training, and a step at lr 0 does nothing."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned in training."""
        super().load_state_dict(state_dict)
        self.train_mode = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do a step. At lr 0, where a warm-up begins, the average's weights would be 0 / 0."""
        if any(group["lr"] for group in self.param_groups):
            return super().step(closure)
        return None if closure is None else closure()


def require_constant(cfg: Config) -> None:
    """Raise UserError if the learning rate falls after its warm-up."""
    if cfg.task.schedule.decay != "constant":
        raise UserError(
            f"{cfg.regularizer.name} averages in place of a falling learning rate; say task.schedule.decay=constant"
        )
