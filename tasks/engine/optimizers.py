"""Build the optimizer of `cfg.regularizer`, evaluate with it, and say when its bounds can act."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cpr.bounds import FIRST_DECIDING_SAMPLE
from tasks.engine.config import Config
from tasks.engine.cpr_keys import CPR
from tasks.engine.errors import UserError

# The engine reports this itself (`never_acts`, `without_bound` in the record), and a stopped run
# resumes later.
warnings.filterwarnings("ignore", message=".* no matrix got a bound: nothing was regularized")


def build_optimizer(cfg: Config, model: nn.Module) -> Optimizer:
    """Return the optimizer of `cfg.regularizer` for the model's trainable parameters.

    Raises:
        UserError: it can't train sharded parameters, or torch refuses a value.
    """
    if cfg.parallel == "fsdp" and cfg.nodes * cfg.gpus > 1 and cfg.regularizer.whole_matrices:
        raise UserError(f"parallel=fsdp: {cfg.regularizer.name} needs whole matrices; use parallel=ddp")
    try:
        return cfg.regularizer.build(cfg, model)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


@contextmanager
def evaluating(optimizer: Any) -> Iterator[None]:
    """Give the model the weights that a schedule-free optimizer evaluates. Other optimizers evaluate what they train."""
    if not hasattr(optimizer, "eval"):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


def first_bound(cfg: Config) -> int | None:
    """Return the first step at which Kappa-WS or Kappa-IP may set a bound, None for any other regularizer."""
    if not isinstance(cfg.regularizer, CPR):
        return None
    arguments = cfg.regularizer.arguments(cfg)
    steps = {
        "warm_start": arguments.get("kappa_init_param"),
        "inflection_point": FIRST_DECIDING_SAMPLE * arguments["reg_step_size"],
    }
    return steps.get(cfg.regularizer.kappa_init_method)


def never_acts(cfg: Config) -> str | None:
    """Return a warning if the bound is set too late to act in this run, else None."""
    first = first_bound(cfg)
    if first is None or first < cfg.num_steps - 1:
        return None
    return f"CPR will never act: the earliest step at which a bound can be set is {first}, and training ends at {cfg.num_steps}"
