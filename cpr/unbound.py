"""Warn at the end of a run that never set a bound: it was Adam without weight decay."""

import contextlib
import warnings
import weakref
from typing import Any

from torch.optim import Optimizer

FEWEST = 10  # a run has at least this many steps


class Unbound:
    """Count an optimizer's steps, and warn at its end if no matrix has a bound.

    The end is when the optimizer is garbage-collected or the program exits.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._seen: dict[str, Any] = {"steps": 0, "kappa_set": [], "group": None}
        weakref.finalize(optimizer, _warn, type(optimizer).__name__, self._seen)

    def count(self, everything: list[Any]) -> None:
        """Note a step of these matrices (cpr.pack.Matrices)."""
        bounded = [m.pack for m in everything if m.measure is not None]
        self._seen["steps"] += 1
        if bounded:
            self._seen |= {"kappa_set": [pack.vectors["kappa_set"] for pack in bounded], "group": bounded[0].group}


def _warn(name: str, seen: dict[str, Any]) -> None:
    steps, group = seen["steps"], seen["group"]
    if steps < FEWEST or group is None:
        return
    with contextlib.suppress(Exception):  # the device may be gone by then, or torch.compile may be running
        if any(bool(flags.any()) for flags in seen["kappa_set"]):
            return
        warnings.warn(
            f"{name} took {steps} steps and no matrix got a bound: nothing was regularized. {_advice(group)}",
            stacklevel=2,
        )


def _advice(group: dict[str, Any]) -> str:
    if group["kappa_init_method"] == "warm_start":
        steps = group["kappa_init_param"]
        return f"The bounds are set after kappa_init_param={steps} steps. Set it to twice the lr warm-up."
    interval = group["reg_step_size"]
    return (
        f"Inflection point with reg_step_size={interval} sets a bound after {4 * interval} steps at the earliest. "
        "Set reg_step_size to a tenth of the lr warm-up."
    )
