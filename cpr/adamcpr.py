"""AdamCPR: Adam under constraints (paper, Algorithm 1)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from cpr import constraint
from cpr.groups import regularized_groups

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
        lr: learning rate >= 0.
        betas: decay of the moments, each in [0, 1).
        eps: >= 0, added to the denominator.
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

    Raises:
        ValueError: an argument out of its range, or nothing to regularize.

    State of a parameter: `step`, `exp_avg`, `exp_avg_sq` (and `max_exp_avg_sq`) as in torch's Adam; `lagmul` (λ), `kappa`
    and `kappa_set`, 0-dim; for IP `sample` and `growth`. All of it is in `state_dict()`.
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
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr={lr} must be >= 0")
        if not eps >= 0:
            raise ValueError(f"eps={eps} must be >= 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={tuple(betas)} must lie in [0, 1)")
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
        defaults |= {"lr": lr, "betas": tuple(betas), "eps": eps, "amsgrad": amsgrad, "maximize": maximize}
        if isinstance(params, nn.Module):
            params = regularized_groups(params, reg_embedding=reg_embedding)
        super().__init__(params, defaults)
        constraint.require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the key `regularize` says whether the group's parameters are bounded."""
        super().add_param_group(param_group)
        constraint.prepare_group(self.param_groups[-1])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                self._start(parameter, group)
            if group["evaluate_at"] == "before":
                self._constrain(parameters, group)
                self._adam(parameters, group)
            else:
                self._adam(parameters, group)
                self._constrain(parameters, group)
        return loss

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if state:
            return
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = torch.zeros_like(parameter)
        if group["regularize"]:
            constraint.start(parameter, group, state)

    def _constrain(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if group["regularize"]:
            for parameter in parameters:
                state = self.state[parameter]
                constraint.constrain(parameter, group, state, t=int(state["step"]))

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """θ ← θ + Opt(g), without weight decay, by torch's own functional form."""
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else [],
            [s["step"] for s in states],
            has_complex=any(p.is_complex() for p in parameters),
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=group["maximize"],
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, with λ, κ and the inflection point's samples kept in their own precision."""
        super().load_state_dict(state_dict)
        constraint.restore_state(self, state_dict)
