"""CPR around any torch optimizer: SGD, Lion, Muon, ... (paper, section 4.1: Opt is any optimizer's update)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cpr import constraint, saved
from cpr.distributed import mesh_of
from cpr.kernels.eager import pull_, sums
from cpr.measures import MEASURES
from cpr.pack import Pack, Packs


class CPR(Optimizer):
    """Bounds the matrices that `optimizer` trains; `optimizer` must not decay weights itself, nor keep a copy of them.

        groups = cpr.regularized_groups(model)
        optimizer = cpr.CPR(torch.optim.SGD(groups, lr=0.1, momentum=0.9), kappa_init_method="warm_start", kappa_init_param=1000)

    Arguments other than `optimizer` are those of `AdamCPR`. Groups are shared with the wrapped optimizer: schedulers and
    gradient scalers take the wrapper. With evaluate_at="before" the pull precedes the wrapped step: exact for every optimizer
    whose update depends on gradients alone (trust-ratio methods such as LARS see the pulled matrix).

    A schedule-free optimizer goes around CPR, not into it: it trains at y, between a sequence z of its own and the average x
    of z, which is what is evaluated. A pull on y leaves z to grow without bound, and x with it. Inside, CPR bounds z, and the
    average of bounded matrices is bounded: schedulefree.ScheduleFreeWrapper(AdamCPR(model, betas=(0, 0.999), ...)).

    Raises:
        ValueError: an argument out of its range, nothing to regularize, weight decay beside `regularize`, or an optimizer
            that evaluates other weights than it trains.

    CPR's part of a step does not depend on the number of threads; the wrapped optimizer's may: torch's SGD rounds bfloat16 otherwise at the
    end of a thread's share.

    `state_dict()` is the wrapped optimizer's, with CPR's state under the key "cpr".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        kappa_init_method: str = "inflection_point",
        kappa_init_param: float | None = None,
        reg_function: str = "l2",
        kappa_update: float = 1.0,
        reg_step_size: int = 200,
        reg_ema_decay: float = 0.0,
        reg_by_lr: bool = False,
        *,
        evaluate_at: str = "before",
        adaptive: str | bool = False,
        safeguard: bool = True,
    ) -> None:
        if hasattr(optimizer, "eval"):
            raise ValueError(
                f"{type(optimizer).__name__} evaluates other weights than it trains, so that CPR would not bound the former; "
                "put the schedule-free method around CPR: schedulefree.ScheduleFreeWrapper(cpr.AdamCPR(model, betas=(0, 0.999), ...))"
            )
        self.optimizer = optimizer
        defaults = constraint.checked_defaults(
            kappa_init_method=kappa_init_method,
            kappa_init_param=kappa_init_param,
            reg_function=reg_function,
            kappa_update=kappa_update,
            reg_step_size=reg_step_size,
            reg_ema_decay=reg_ema_decay,
            reg_by_lr=reg_by_lr,
            evaluate_at=evaluate_at,
            adaptive=adaptive,
            safeguard=safeguard,
        )
        self._packs = Packs()
        # The group dictionaries stay the same objects, so that a scheduler's lr reaches the wrapped optimizer.
        super().__init__(optimizer.param_groups, optimizer.defaults | defaults)
        constraint.require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group here and, unless it is there already, to the wrapped optimizer."""
        if not any(param_group is group for group in self.optimizer.param_groups):
            self.optimizer.add_param_group(param_group)
            param_group = self.optimizer.param_groups[-1]
        super().add_param_group(param_group)
        constraint.prepare_group(self.param_groups[-1])

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of the wrapped optimizer with the pull before or after it; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        packs = [(pack, group) for number, group in enumerate(self.param_groups) for pack in self._packed(number, group)]
        self._packs.begin(packs)
        for pack, group in packs:
            if pack.before:
                pull_(pack.tensors, pack.pull(group), MEASURES[group["reg_function"]])
        self.optimizer.step()
        for pack, _ in packs:
            pack.scalars["step"] += 1
            pack.keep(None)  # torch's fused optimizers and bitsandbytes change a parameter without a new version
        self._packs.finish([pack for pack, _ in packs])
        for pack, group in packs:
            if not pack.before:
                pull_(pack.tensors, pack.pull(group), MEASURES[group["reg_function"]])
        return loss

    def _packed(self, number: int, group: dict[str, Any]) -> list[Pack]:
        """The group's regularized parameters that have a gradient, in packs of one device, dtype and mesh."""
        parameters = [p for p in group["params"] if p.grad is not None] if group["regularize"] else []

        def make(same: list[Tensor], _: Any) -> Pack:
            return Pack(same, group, self.state, sums, moments=False)

        return self._packs.of(number, parameters, lambda p: (p.device, p.dtype, mesh_of(p)), make)

    def __getstate__(self) -> dict[str, Any]:
        """What copy and pickle take: torch's part and the wrapped optimizer."""
        return super().__getstate__() | {"optimizer": self.optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by copy and pickle."""
        super().__setstate__(state)
        self._packs = Packs()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, plus "cpr": {parameter index: λ, κ, ...}."""
        own = super().state_dict()["state"]
        return self.optimizer.state_dict() | {"cpr": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`; settings that the saved groups lack, as those of an older version do, are this optimizer's.

        A state without the part "cpr" is taken as the wrapped optimizer's, saved before there was CPR: it goes on, and the constraints
        start at the present matrices, counting their steps from 0.
        Raises ValueError for another number of groups or parameters; see `AdamCPR.load_state_dict` for what to do then: the moments
        belong in `optimizer.optimizer.state`.
        """
        state_dict = saved.completed(self, state_dict)
        self.optimizer.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.param_groups = list(self.optimizer.param_groups)  # the same dictionaries in a list of its own
        own = {"state": state_dict.get("cpr", {}), "param_groups": state_dict["param_groups"]}
        self.state.clear()
        self._packs = Packs()
        # All names: an optimizer around this one keeps its state here too (schedulefree's wrapper: z).
        constraint.restore_state(self, own, {name for entry in own["state"].values() for name in entry})
