"""AdamCPR: Adam under constraints (paper, Algorithm 1)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cpr import bounds, saved, settings
from cpr.groups import regularized_groups
from cpr.named import Named
from cpr.pack import Packs
from cpr.unbound import Unbound

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class AdamCPR(Named):
    """Adam with an upper bound κ on the size of every regularized matrix, in place of weight decay.

    With `evaluate_at="before"` and L2 a step is exactly AdamW's with a decoupled decay of 2λ per
    matrix. The arguments have the names and meanings of the authors' package `pytorch-cpr`, so you
    switch by changing the import. (*) marks an intended difference in meaning.

    Args:
        params: a model, or parameter groups with the key `regularize: bool`. `cpr.describe` shows
            which parameters of a model are regularized. The `params` of a group may be a module.
            Groups built for weight decay work too: those with weight_decay != 0 are regularized.
            (*) A plain list of parameters, which would regularize none, is an error.
        lr: learning rate >= 0, a number or a tensor of one element.
        betas: decay of the moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        kappa_init_method: "inflection_point" (Kappa-IP), "warm_start" (Kappa-WS), "uniform"
            (Kappa-K) or "dependent" (Kappa-kI0).
        kappa_init_param: for WS the number of steps s (best: twice the lr warm-up, default 1000).
            For Kappa-K it is κ, (*) per element. For kI0 it is the factor k. IP doesn't use it.
        reg_function: the measure, "l2" (mean square), "std", "l1" or "huber". See cpr.measures.
        kappa_update: μ > 0, the multiplier's update rate. The paper found no effect between 0.01 and 10.
        reg_step_size: the number of steps between IP's samples of R. The paper takes 10 % of the lr
            warm-up. A bound is set after four times this number at the earliest.
        reg_ema_decay: the decay of IP's moving average of R over steps. (*) The default 0, no
            smoothing, is the paper's way.
        reg_embedding: regularize nn.Embedding too (only for modules).
        reg_by_lr: scale the pull by lr, as decoupled weight decay does.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend.
        evaluate_at: where R and its gradient are taken: "before" at θ_t (paper, Algorithm 1) or
            "after" at θ_t + Opt(g_t) (package).
        adaptive: AdaCPR (Algorithm 3): False, "transition" (the paper) or "latched" (the authors'
            early code).
        safeguard: limit each pull as described in cpr.bounds. False gives Algorithm 1 to the letter.
        kernel: "auto", "cpu" or "triton" (single pass, compiled on first use), or "eager" (torch's
            own operations). See cpr.kernels.
        weight_decay: for optimizer factories that pass it. Groups that have neither `weight_decay`
            nor `regularize` get this value, and are regularized if it isn't 0. It never decays
            anything. Refused with a model.
        foreach, fused, capturable: accepted without effect, since `kernel` decides. Every step
            after the first may be captured.
        differentiable: True is refused.

    Raises:
        ValueError: an argument out of its range, or nothing to regularize.

    State of a parameter: `step`, `exp_avg`, `exp_avg_sq` (and `max_exp_avg_sq`) as in torch's Adam.
    CPR adds `lagmul` (λ), `kappa` and `kappa_set`, all 0-dim, and for IP `sample` and `growth`. All
    of it is in `state_dict()`. As with torch's optimizers, the next step uses whatever `state`
    holds: you may replace an entry, move it and move it back, or clear it.

    Settings of a group take effect at the next step. Once a bound is in force, the settings that it
    was made from (`reg_function`, `kappa_init_method`, and κ or k) can't change any more.

    R(θ_{t+1}) is known after step t, unless the parameter has been changed since. A change in place
    through `parameter.data` or `.numpy()` leaves no new version. On a CPU, a sample of elements
    detects it, and R is recomputed whenever a bound may be set. A change of only a few elements may
    be noticed one step late there. On a GPU and for sharded parameters every such change may.

    torch.distributed.checkpoint makes an optimizer's state by a first step with lr 0 and zero
    gradients. Such a step makes the state and leaves parameters and counts alone. A matrix that
    holds a NaN or an infinity keeps its λ and κ.

    No step reads a value from the device. The host waits only while it copies tables to the device:
    in the first step, and whenever the set of parameters with gradients changes. All other steps
    only queue their work. `torch.compile` breaks the graph at a step and leaves the step as it is,
    because one pass over memory has nothing to fuse. With the Triton kernel, a step can be captured
    in a CUDA graph after a first step. `lr` may then be a 0-dim tensor on the device that a
    schedule changes in place.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        kappa_init_method: str = "inflection_point",
        kappa_init_param: float | None = None,
        reg_function: str = "l2",
        kappa_update: float = 1.0,
        reg_step_size: int = 200,
        reg_ema_decay: float = 0.0,
        reg_embedding: bool = False,
        reg_by_lr: bool = False,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        evaluate_at: str = "before",
        adaptive: str | bool = False,
        safeguard: bool = True,
        kernel: str = "auto",
        weight_decay: float | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if differentiable:
            raise ValueError(
                "differentiable=True is not supported: a step changes parameters in place, outside of autograd"
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
        betas = tuple(betas) if isinstance(betas, list) else betas
        defaults |= {"lr": lr, "betas": betas, "eps": eps, "amsgrad": amsgrad, "maximize": maximize, "kernel": kernel}
        settings.check_group(defaults)
        settings.check_adam(defaults)
        self._start_naming(params, reg_embedding)
        self._forget()
        self._unbound = Unbound(self)
        if not isinstance(params, nn.Module):
            groups = settings.groups_of(params, weight_decay)
        elif weight_decay:
            raise ValueError(f"weight_decay={weight_decay} with a model: CPR replaces weight decay, so leave it out")
        else:
            groups = regularized_groups(params, reg_embedding)
        super().__init__(groups, defaults)
        settings.require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, by the constructor's rules.

        Args:
            param_group: its `params` is a module or parameters. A module is split into what is
                regularized and what is not. For parameters, `regularize` says whether they are
                bounded.

        Raises:
            ValueError: neither `regularize` nor `weight_decay` is given, or a setting is out of range.
        """
        for group in self._split(param_group):
            given = set(group)
            super().add_param_group(group)
            with settings.taken_back(self):
                settings.prepare_group(self.param_groups[-1], given)
                settings.check_adam(self.param_groups[-1])

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient (Algorithm 1).

        Return the closure's loss, if one is given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        new = not self.state
        groups = [
            (number, group, self._watch.changed(number, group, self)) for number, group in enumerate(self.param_groups)
        ]
        everything = self._packs.gather(groups, self.state, self.name_of)
        self._packs.begin(everything, self.state)  # R(θ_t), unless it is known
        if new and saved.only_makes_state(self.param_groups, everything):
            return loss

        for matrices in everything:
            if matrices.pack.before:
                pull = matrices.constrain()  # λ_{t+1} = max(0, λ_t + μ (R(θ_t) − κ))
                matrices.adam_(pull)  # θ_{t+1} = θ_t + Opt(g_t) − λ_{t+1} ∇R(θ_t)
            elif matrices.pack.after and not matrices.pack.sharded:
                # θ' = θ_t + Opt(g_t), λ_{t+1} from R(θ'), θ_{t+1} = θ' − λ_{t+1} ∇R(θ')
                matrices.after_()
            else:
                # θ_t + Opt(g_t): not bounded, or R(θ') must wait for the other ranks
                matrices.adam_()
        self._packs.finish(everything)  # the sums of sharded matrices over ranks
        for matrices in everything:
            if matrices.pack.after and matrices.pack.sharded:
                matrices.pull_(matrices.constrain())
            matrices.put_back()
        self._unbound.count(everything)
        return loss

    def _forget(self) -> None:
        """Drop what is derived from groups and state. The next step derives it again."""
        self._packs = Packs(kernel=None, moments=True)
        self._watch = settings.Watch()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state that load_state_dict, copy and pickle give."""
        super().__setstate__(state)
        self._forget()
        if "_unbound" not in vars(self):  # load_state_dict comes here too
            self._unbound = Unbound(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch's optimizers do.

        λ, κ and the inflection point's samples keep their own precision. Settings that the saved
        groups lack, as those of an older version do, are taken from this optimizer. If the groups
        hold the same parameters in the same order, two other kinds of state are accepted:
          - The state of another Adam. Its moments and its count of steps go on. The constraints
            start at the present matrices, with this optimizer's settings. (Kappa-WS with s not
            above that count is set at once.)
          - The state of pytorch-cpr 0.3.1. Build this optimizer from the package's groups,
            `AdamCPR(pytorch_cpr.group_parameters_for_cpr_optimizer(model), ...)`, which have names
            in alphabetical order. Pass the arguments of the optimizer that saved the state. With
            evaluate_at="after" training goes on as in the package. κ, a sum there, becomes one per
            element. An inflection point not yet found is looked for anew.

        Moments saved with other groups, such as those of AdamW(model.parameters()), take one more
        step. Load them into an optimizer `old` that has these groups: old.load_state_dict(state_dict).
        Then call optimizer.state.update(old.state) before the first step.

        Raises:
            ValueError: another number of groups or parameters, a moment of another shape than its
                parameter, or a state of the package in another order than this optimizer's.
        """
        with saved.loading(self, state_dict) as state_dict:
            if saved.is_of_the_package(state_dict):
                if self._of_model:
                    raise ValueError(
                        "pytorch-cpr saved this state, and it orders parameters in its own way. To load it, build this "
                        "optimizer with AdamCPR(pytorch_cpr.group_parameters_for_cpr_optimizer(model), ...)"
                    )
                state_dict = saved.from_the_package(state_dict, self.param_groups)
            for group in state_dict["param_groups"]:
                settings.check_group(group)
                settings.check_adam(group)
            saved.check_class(state_dict, ("cpr_kappa", "cpr_kappa_set"), "CPR", "AdamCPR")
            saved.check_shapes(self, state_dict, self.name_of)
            saved.check_moments(state_dict)
            super().load_state_dict(state_dict)
            saved.restore(self, state_dict, bounds.STATE)
