"""AdamCPR: Adam under constraints (paper, Algorithm 1)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import constraint, saved
from cpr.distributed import local, mesh_of
from cpr.groups import regularized_groups
from cpr.kernels import CHOICES, Kernel, select
from cpr.kernels.eager import pull_
from cpr.pack import Pack, Packs

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class AdamCPR(Optimizer):
    """Adam with an upper bound κ on the size of every regularized matrix, in place of weight decay.

    With `evaluate_at="before"` and L2 a step is exactly AdamW's with a decoupled decay of 2λ per matrix. The arguments have
    the names and meanings of the authors' package `pytorch-cpr`, so that switching is a changed import; what differs on
    purpose is marked (*).

    Args:
        params: a model (cpr.groups says which of its parameters are regularized), or parameter groups with the key
            `regularize: bool`. Groups built for weight decay work too: those with weight_decay != 0 are regularized.
            (*) A plain list of parameters, of which none would be regularized, is an error.
        lr: learning rate >= 0; a 0-dim tensor too.
        betas: decay of the moments, each in [0, 1).
        eps: added to the denominator, >= 0.
        kappa_init_method: "inflection_point" (Kappa-IP), "warm_start" (Kappa-WS), "uniform" (Kappa-K), "dependent" (Kappa-kI0).
        kappa_init_param: WS: number of steps s (best: twice the lr warm-up; default 1000). Kappa-K: κ, (*) per element.
            kI0: the factor k. IP: unused.
        reg_function: the measure, "l2" (mean square), "std", "l1" or "huber"; see cpr.measures.
        kappa_update: μ > 0, the multiplier's update rate. The paper found no effect between 0.01 and 10.
        reg_step_size: IP samples R every so many steps; the paper takes 10 % of the lr warm-up.
        reg_ema_decay: IP smooths R by a moving average over steps with this decay. (*) 0, no smoothing, is the paper's way
            and the default.
        reg_embedding: regularize nn.Embedding too (only if `params` is a model).
        reg_by_lr: scale the pull by lr, as decoupled weight decay does.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend.
        evaluate_at: where R and its gradient are taken: "before" at θ_t (paper, Algorithm 1), "after" at θ_t + Opt(g_t) (package).
        adaptive: AdaCPR (Algorithm 3): False, "transition" (the paper) or "latched" (the authors' early code).
        safeguard: the limits on one pull of cpr.constraint; False gives Algorithm 1 to the letter.
        kernel: "auto", "cpu" or "triton" (single pass, compiled on first use), or "eager" (torch's own operations); see cpr.kernels.

    Raises:
        ValueError: an argument out of its range, or nothing to regularize.

    State of a parameter: `step`, `exp_avg`, `exp_avg_sq` (and `max_exp_avg_sq`) as in torch's Adam; `lagmul` (λ), `kappa`
    and `kappa_set`, 0-dim; for IP `sample` and `growth`. All of it is in `state_dict()`.

    R(θ_{t+1}) is known from step t on, unless the parameter's version says that somebody else has changed it since. Changes that
    leave no version are seen one step late: through `parameter.data`, or of DTensors by `torch._foreach_` operations.

    No step asks the device for a value. The first step, and every one in which other parameters have a gradient than in the step
    before, makes tables on the host and copies them to the device, for which the host waits; all other steps only queue their work.
    `torch.compile` breaks the graph at a step and leaves it as it is: one pass over memory has nothing to fuse. With the Triton kernel
    it can be captured in a CUDA graph after a first step; `lr` may then be a 0-dim tensor on the device, which a schedule changes in place.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
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
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr={lr} must be >= 0")
        if not eps >= 0:
            raise ValueError(f"eps={eps} must be >= 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={tuple(betas)} must lie in [0, 1)")
        if kernel not in CHOICES:
            raise ValueError(f"kernel={kernel!r} is unknown; choose one of {', '.join(CHOICES)}")
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
        defaults |= {"lr": lr, "betas": tuple(betas), "eps": eps, "amsgrad": amsgrad, "maximize": maximize, "kernel": kernel}
        self._of_model = isinstance(params, nn.Module)
        if isinstance(params, nn.Module):
            params = regularized_groups(params, reg_embedding=reg_embedding)
        self._packs = Packs()
        super().__init__(params, defaults)
        constraint.require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the key `regularize` says whether the group's parameters are bounded."""
        super().add_param_group(param_group)
        constraint.prepare_group(self.param_groups[-1])

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        packs = [(*made, group) for number, group in enumerate(self.param_groups) for made in self._packed(number, group)]
        self._packs.begin([(pack, group) for pack, _, group in packs])
        for pack, kernel, group in packs:
            # λ_{t+1} = max(0, λ_t + μ (R(θ_t) - κ)) and θ_{t+1} = θ_t + Opt(g_t) - λ_{t+1} ∇R(θ_t)
            pack.keep(kernel.adam_(pack, pack.gradients, group))
        self._packs.finish([pack for pack, _, _ in packs if pack.measure is not None])
        for pack, _, group in packs:
            if pack.measure is not None and not pack.before:
                pull_(pack.tensors, pack.pull(group), pack.measure)
        return loss

    def _packed(self, number: int, group: dict[str, Any]) -> list[tuple[Pack, Kernel]]:
        """The group's parameters that have a gradient, in packs of one device, dtype, mesh and kernel."""

        def kind(p: Tensor) -> Any:
            if p.grad is not None and p.grad.is_sparse:
                raise ValueError(f"AdamCPR has no step for sparse gradients (a parameter of shape {tuple(p.shape)}); use sparse=False")
            return p.device, p.dtype, mesh_of(p), select(local(p), group["kernel"])

        def make(parameters: list[Tensor], kind: Any) -> tuple[Pack, Kernel]:
            kernel = kind[-1]
            return Pack(parameters, group, self.state, kernel.sums, moments=True), kernel

        return self._packs.of(number, [p for p in group["params"] if p.grad is not None], kind, make)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by load_state_dict, copy and pickle."""
        super().__setstate__(state)
        self._packs = Packs()
        self.__dict__.setdefault("_of_model", False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, with λ, κ and the inflection point's samples kept in their own precision.

        Settings that the saved groups lack, as those of an older version do, are this optimizer's. Taken too, if the groups hold the
        same parameters in the same order:
          - The state of another Adam. Its moments and its count of steps go on; the constraints start at the present matrices, with
            this optimizer's settings. (Kappa-WS with s not above that count is set at once.)
          - The state of pytorch-cpr 0.3.1, if this optimizer has the package's groups
            (`AdamCPR(pytorch_cpr.group_parameters_for_cpr_optimizer(model), ...)`, which puts names in alphabetical order) and the
            arguments of the optimizer that saved it; with evaluate_at="after" it goes on as the package would. κ, a sum there,
            becomes one per element. An inflection point not yet found is looked for anew.

        Moments saved with other groups, such as those of AdamW(model.parameters()), come in by way of an optimizer that has these
        groups: old.load_state_dict(state_dict), then optimizer.state.update(old.state) before the first step.

        Raises:
            ValueError: another number of groups or parameters, or a state of the package whose order is not that of this optimizer.
        """
        state_dict = saved.completed(self, state_dict)
        if saved.is_of_the_package(state_dict):
            if self._of_model:
                raise ValueError(
                    "this state was saved by pytorch-cpr, which orders parameters in its own way: build this optimizer with "
                    "AdamCPR(pytorch_cpr.group_parameters_for_cpr_optimizer(model), ...) to load it"
                )
            state_dict = saved.from_the_package(state_dict, self.param_groups)
        super().load_state_dict(state_dict)
        constraint.restore_state(self, state_dict)
