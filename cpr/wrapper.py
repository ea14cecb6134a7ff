"""CPR around any torch optimizer: SGD, Lion, Muon, ... (paper, section 4.1: Opt is any optimizer's update)."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from cpr import saved, settings
from cpr.kernels import EAGER
from cpr.named import Named
from cpr.pack import Packs
from cpr.unbound import Unbound

KEEP_A_COPY = ("MADGRAD", "MirrorMADGRAD")
# Marks CPR's entries in a saved state, beside the wrapped optimizer's.
PREFIX = "cpr_"


class CPR(Named):
    """Bounds on the matrices that any torch `optimizer` trains.

        groups = cpr.regularized_groups(model)
        optimizer = cpr.CPR(
            torch.optim.SGD(groups, lr=0.1, momentum=0.9),
            kappa_init_method="warm_start",
            kappa_init_param=1000,
        )

    `optimizer` must neither decay weights itself nor keep a copy of them. The other arguments are
    those of `AdamCPR`. CPR shares its groups with the wrapped optimizer, so pass CPR itself to
    schedulers and gradient scalers. With evaluate_at="before" the pull precedes the wrapped step.
    That is exact for every optimizer whose update depends on gradients alone. Trust-ratio methods
    such as LARS see the pulled matrix.

    A schedule-free optimizer goes around CPR, not into it. It trains at y, which lies between its
    own sequence z and the average x of z, and it evaluates at x. A pull on y would leave z, and with
    it x, to grow without bound. Inside a schedule-free optimizer, CPR bounds z, and the average of
    bounded matrices is bounded: schedulefree.ScheduleFreeWrapper(AdamCPR(model, betas=(0, 0.999), ...)).

    Raises:
        ValueError: an argument out of its range, nothing to regularize, weight decay beside
            `regularize`, an optimizer that evaluates other weights than it trains, or one that needs
            a closure, such as LBFGS.

    CPR's part of a step does not depend on the number of threads. The wrapped optimizer's part may:
    torch's SGD rounds bfloat16 differently at the end of each thread's share.

    `state` holds λ, κ and what decides them. The wrapped optimizer's own state is
    `optimizer.optimizer.state`. `state_dict()` has both, with the prefix "cpr_" on CPR's entries.
    Hooks fire once, in torch's order. Hooks registered here belong to CPR, those registered on the
    wrapped optimizer belong to it. The hooks of all optimizers (register_optimizer_step_pre_hook)
    see CPR alone.
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
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"CPR wraps an optimizer, as in CPR(torch.optim.SGD(...)), not {type(optimizer).__name__}")
        if hasattr(optimizer, "eval"):
            raise ValueError(
                f"{type(optimizer).__name__} evaluates other weights than it trains, "
                "and CPR would bound only the trained ones. "
                "Wrap AdamCPR instead: schedulefree.ScheduleFreeWrapper(cpr.AdamCPR(model, betas=(0, 0.999), ...))"
            )
        name = type(optimizer).__name__
        if isinstance(optimizer, Named):
            raise ValueError(f"{name} bounds its matrices already. Pass CPR an optimizer that does not")
        if name in KEEP_A_COPY:
            raise ValueError(
                f"{name} recomputes the weights from its own copy, which would undo CPR's pull. Use another optimizer"
            )
        if all("safeguard" in group for group in optimizer.param_groups):
            raise ValueError(
                f"this {name} has been in a CPR before, and its groups still have those settings. Make a new {name}"
            )
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"{name} evaluates its closure several times in a step, and CPR can't pull in between. "
                "Use another optimizer"
            )
        defaults = settings.checked_defaults(
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
        self.optimizer = optimizer
        self._start_naming(None, reg_embedding=False)
        self._forget()
        self._unbound = Unbound(self)
        # The group dictionaries stay the same objects, so that a scheduler's lr reaches the wrapped optimizer.
        super().__init__(optimizer.param_groups, optimizer.defaults | defaults)
        settings.require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group here and, unless it has it already, to the wrapped optimizer.

        See AdamCPR.add_param_group.
        """
        if any(param_group is group for group in self.optimizer.param_groups):
            self._add(param_group, {*param_group, "weight_decay"})
            return
        for group in self._split(param_group):
            given = set(group)
            self.optimizer.add_param_group(group)
            with settings.taken_back(self.optimizer):
                self._add(self.optimizer.param_groups[-1], given)

    def _add(self, group: dict[str, Any], given: set[str]) -> None:
        super().add_param_group(group)
        with settings.taken_back(self):
            settings.prepare_group(self.param_groups[-1], given)

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Do one step of the wrapped optimizer, with the pull before or after it.

        Return the closure's loss, if one is given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        new = not self.state and not self.optimizer.state
        self._share_groups()
        groups = [
            (number, group, self._watch.changed(number, group, self)) for number, group in enumerate(self.param_groups)
        ]
        everything = self._packs.gather([entry for entry in groups if entry[1]["regularize"]], self.state, self.name_of)
        self._packs.begin(everything, self.state)  # R(θ_t)
        if new and saved.only_makes_state(self.param_groups, everything):
            step_without_global_hooks(self.optimizer)
            return loss

        for matrices in everything:
            if matrices.pack.before:
                matrices.pull_(matrices.constrain())  # λ_{t+1}, then θ_t − λ_{t+1} ∇R(θ_t)
        step_without_global_hooks(self.optimizer)  # θ + Opt(g_t)
        for matrices in everything:
            matrices.scalars["step"] += 1
            # torch's fused optimizers and bitsandbytes change a parameter without a new version.
            matrices.forget_sums()
        self._packs.finish(everything)
        for matrices in everything:
            if matrices.pack.after:
                if not matrices.pack.sharded:
                    matrices.kernel.refresh(matrices)
                matrices.pull_(matrices.constrain())  # λ_{t+1} from θ_t + Opt(g_t), and its pull
            matrices.put_back()
        self._unbound.count(everything)
        return loss

    def _share_groups(self) -> None:
        """Give the wrapped optimizer any group that was replaced in `param_groups`."""
        theirs = self.optimizer.param_groups
        if len(theirs) != len(self.param_groups) or any(
            a is not b for a, b in zip(self.param_groups, theirs, strict=True)
        ):
            self.optimizer.param_groups[:] = self.param_groups

    def _forget(self) -> None:
        """Drop what is derived from groups and state. The next step derives it again."""
        self._packs = Packs(kernel=EAGER, moments=False)
        self._watch = settings.Watch()

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle take: torch's part and the wrapped optimizer."""
        return super().__getstate__() | {"optimizer": self.optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state that copy and pickle give."""
        super().__setstate__(state)
        self._forget()
        if "_unbound" not in vars(self):  # load_state_dict comes here too
            self._unbound = Unbound(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state and CPR's.

        λ, κ and the like are in the state of each parameter, with the prefix "cpr_".
        """
        for before in list(self._optimizer_state_dict_pre_hooks.values()):
            before(self)
        found = self.optimizer.state_dict()
        state = {identifier: dict(entry) for identifier, entry in found["state"].items()}
        parameters = [p for group in self.param_groups for p in group["params"]]
        for identifier, parameter in enumerate(parameters):
            own = {PREFIX + name: value for name, value in self.state.get(parameter, {}).items()}
            entry = state.setdefault(identifier, {}) if own else state.get(identifier, {})
            entry |= own
            # torch.distributed.checkpoint wants an entry for every parameter or for none.
            if self.state and parameter.requires_grad and not entry:
                state[identifier] = {PREFIX + "step": torch.zeros((), device=parameter.device)}
        found = found | {"state": state}
        for after in list(self._optimizer_state_dict_post_hooks.values()):
            replaced = after(self, found)
            found = found if replaced is None else replaced
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returns.

        Settings that the saved groups lack, as those of an older version do, are taken from this
        optimizer. A state without CPR's entries is taken as the wrapped optimizer's, saved before
        CPR was used. Its training goes on. The constraints start at the present matrices and count
        their steps from 0. States of version 0.1, with CPR's part under the key "cpr", are taken too.

        Raises:
            ValueError: another number of groups or parameters, or a moment of another shape than its
                parameter. For the former see AdamCPR.load_state_dict: the moments belong in
                `optimizer.optimizer.state`.
        """
        with saved.loading(self, state_dict) as state_dict:
            for group in state_dict["param_groups"]:
                settings.check_group(group)
            theirs, own = _parted(state_dict)
            saved.check_class({"state": theirs}, ("kappa", "kappa_set"), "AdamCPR", "CPR")
            saved.check_shapes(self, {"state": theirs, "param_groups": state_dict["param_groups"]}, self.name_of)
            self.optimizer.load_state_dict({"state": theirs, "param_groups": state_dict["param_groups"]})
            self.param_groups = list(self.optimizer.param_groups)  # the same dictionaries in a list of its own
            self.state.clear()
            self._forget()
            # Restore all names: an optimizer around this one (schedulefree's wrapper: z) stores here too.
            names = {name for entry in own.values() for name in entry}
            saved.restore(self, {"state": own, "param_groups": state_dict["param_groups"]}, names)


def _parted(state_dict: dict[str, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the wrapped optimizer's part of a saved state and CPR's, keyed by parameter number."""
    if "cpr" in state_dict:  # version 0.1
        return state_dict["state"], state_dict["cpr"]
    if any(isinstance(entry.get("kappa_set"), dict) for entry in state_dict["state"].values()):
        raise ValueError(
            "λ and κ are missing in this state, because it was saved with flatten_optimizer_state_dict=True. "
            "Save it again without that option of StateDictOptions"
        )
    theirs: dict[Any, Any] = {}
    own: dict[Any, Any] = {}
    for identifier, entry in state_dict["state"].items():
        for name, value in entry.items():
            into, key = (own, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else (theirs, name)
            into.setdefault(identifier, {})[key] = value
    # state_dict adds an entry with only a step for torch.distributed.checkpoint.
    return theirs, {identifier: entry for identifier, entry in own.items() if set(entry) != {"step"}}


def step_without_global_hooks(optimizer: Optimizer) -> None:
    """Call the wrapped optimizer's step with its own hooks.

    The hooks of all optimizers have seen CPR's step already.
    """
    step = type(optimizer).step
    if "step" in vars(optimizer) or not getattr(step, "hooked", False):
        optimizer.step()
        return
    for before in list(optimizer._optimizer_step_pre_hooks.values()):
        before(optimizer, (), {})
    step.__wrapped__(optimizer)  # type: ignore[attr-defined]
    for after in list(optimizer._optimizer_step_post_hooks.values()):
        after(optimizer, (), {})
