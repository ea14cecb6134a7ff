"""A regularizer: the keys that its optimizer reads, and how it is built.

Each module of tasks/regularizers/ declares one, under the name that `regularizer.optimizer` gives.
Its keys are read without torch, so it imports torch where it builds.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, ClassVar

from tasks.engine.errors import UserError
from tasks.engine.section import NonNegative, Section, read, shown_as

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from tasks.engine.config import Config

ROOM = "tasks.regularizers"


class Regularizer(Section):
    """What every regularizer has: the beginning of its run ids, its optimizer, and a learning rate if it has its own.

    Attributes:
        whole_matrices: whether a step needs whole matrices, so that parallel=fsdp is refused.
    """

    whole_matrices: ClassVar[bool] = False

    name: str
    optimizer: str
    lr: NonNegative | None = None

    def build(self, cfg: "Config", model: "nn.Module") -> "Optimizer":
        """Return the optimizer for the model's trainable parameters. ValueError and TypeError become a UserError."""
        raise NotImplementedError(f"{type(self).__name__} has no build")


def read_regularizer(content: dict[str, Any]) -> Regularizer:
    """Return `cfg.regularizer`.

    Raises:
        UserError: the optimizer is unknown or does not read a key, or a value is out of its range.
    """
    model = _model(content.get("optimizer"))
    known = set(model.model_fields)
    if unknown := sorted(set(content) - known):
        raise UserError(f"regularizer.{not_read(unknown[0], content[unknown[0]], str(content.get('name')), known)}")
    return read(model, content, "regularizer")


def not_read(key: str, value: Any, name: str, known: set[str]) -> str:
    """Return the line that refuses a key: its value, and what the regularizer reads instead."""
    keys = ", ".join(sorted(known - {"name", "optimizer"}))
    return f"{key}={shown_as(value)} is not read by {name}; it reads {keys}"


def optimizers() -> list[str]:
    """Return the names that `regularizer.optimizer` may have."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(ROOM).__path__))


def _model(optimizer: Any) -> type[Regularizer]:
    """Return the keys of an optimizer: the regularizer that its module defines."""
    if optimizer not in optimizers():
        raise UserError(
            f"regularizer.optimizer={shown_as(optimizer)} is unknown; choose one of {', '.join(optimizers())}"
        )
    module = importlib.import_module(f"{ROOM}.{optimizer}")
    own = [found for found in vars(module).values() if getattr(found, "__module__", None) == module.__name__]
    return next(found for found in own if isinstance(found, type) and issubclass(found, Regularizer))


def decay(cfg: "Config", weight_decay: float) -> float:
    """Return a weight decay times the task's `weight_decay_multiplier`."""
    return weight_decay * cfg.task.weight_decay_multiplier


def groups(cfg: "Config", model: "nn.Module", weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Return two parameter groups: the regularized matrices with the decay, and all other parameters without.

    Both have the key `regularize`. The decay is multiplied by the task's `weight_decay_multiplier`.
    """
    from cpr import regularized_groups

    found, everywhere = regularized_groups(model, reg_embedding=cfg.task.reg_embedding), cfg.task.decay_all
    decayed = decay(cfg, weight_decay)
    return [group | {"weight_decay": decayed if group["regularize"] or everywhere else 0.0} for group in found]


def adam(cfg: "Config") -> dict[str, Any]:
    """Return `lr`, `betas` and `eps` of the task."""
    return {"lr": cfg.lr, "betas": cfg.task.betas, "eps": cfg.task.eps}


def baseline(cfg: "Config") -> dict[str, Any]:
    """Return what every Adam of cpr.baselines reads of the task. It makes the groups itself."""
    return adam(cfg) | {"reg_embedding": cfg.task.reg_embedding}
