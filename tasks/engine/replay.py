"""Replay a run's steps with Algorithm 1 as cpr/reference.py writes it, and compare θ, λ and κ after every step.

`run` trains the run, and hooks on its optimizer watch it. Each matrix has a reference that starts from
the run's initial weights and gets the run's gradients. The reference carries its own weights, moments,
λ and κ in float64.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from cpr import AdamCPR
from cpr.bounds import FIRST_DECIDING_SAMPLE
from cpr.reference import Reference
from tasks.engine.config import Config, read_config
from tasks.engine.cpr_keys import CPR
from tasks.engine.environment import state_of
from tasks.engine.errors import UserError
from tasks.engine.run import run

# What rounding to float32 can do. The run rounds, and the reference is exact beside it.
# - A step rounds θ twice: the pull and the update. Each error is at most one rounding of the largest
#   element. The update's own errors are smaller, because it is small beside θ.
# - Errors of single elements mostly cancel in R, a mean over all of them. What is left grows slowly. In
#   runs at mini scale it is about 12 roundings after 100 steps, and up to 21 after 300. κ is such an R.
# - A step adds μ (R - κ) to λ, with the errors of R, κ and λ.
# Errors of all steps add up, if they have the same sign. So at 300 steps θ may differ by 7e-5, and λ and κ
# by 6e-4. Differences at mini scale are below 3e-6, 3e-5 and 3e-7. A fault in λ or κ is larger: it
# changes R - κ by more than 2e-6 κ, at every step.
ROUNDING = 2.0**-24
PER_STEP = {"theta": 4 * ROUNDING, "lam": 32 * ROUNDING, "kappa": 32 * ROUNDING}
# A second difference of R, which decides the inflection point early in a run, adds up four R.
TIE = 4 * 12 * ROUNDING
ABOVE = 1.05  # R / κ


@dataclass(frozen=True)
class Replayed:
    """How far a run was from the reference, over all matrices and steps.

    Attributes:
        kappa_init_param: s of Kappa-WS, the sampling interval of Kappa-IP, k of Kappa-kI0 or κ of Kappa-K.
        steps: number of steps that were compared.
        matrices: number of regularized matrices that were updated. Frozen and unused ones are left out.
        bounds: how many of them had a bound at the end.
        theta: the largest |Δθ| of an element, relative to the largest element of its matrix.
        lam: the largest |Δλ|, relative to the largest λ or μ R of its matrix so far, because a step adds
            μ (R - κ) to λ.
        kappa: the largest relative difference of κ.
        same_steps: whether both set each κ at the same step.
        ties: bounds whose inflection point is within rounding. The reference follows the run there.
        most: the largest R / κ, None without a bound.
        above: share of all (matrix, step) pairs with R > 1.05 κ.
        active: share of all (matrix, step) pairs with λ > 0.
        state: the run's code, versions, hardware and kernel (`environment.state_of`).
    """

    kappa_init_param: float
    steps: int
    matrices: int
    bounds: int
    theta: float
    lam: float
    kappa: float
    same_steps: bool
    ties: int
    most: float | None
    above: float
    active: float
    state: dict[str, Any]

    @property
    def outcome(self) -> str:
        """Return "reproduced", "differs", or "no bound" if no bound was set in these steps."""
        if not self.same_steps or any(getattr(self, name) > self.steps * size for name, size in PER_STEP.items()):
            return "differs"
        return "reproduced" if self.bounds else "no bound"


def replay(cfg: DictConfig, steps: int) -> Replayed:
    """Train the first steps of a run of AdamCPR, and return how it compares with the reference.

    Args:
        cfg: the run's configuration. Its folder must hold no run.
        steps: number of updates after which the run is left. Its schedule is that of the whole run.

    Raises:
        UserError: the reference lacks the run's optimizer or a setting of it, or the run can't start.
        TrainingFailed: the run diverged.
    """
    watch = _Watch(read_config(cfg), steps)
    hooks = (register_optimizer_step_pre_hook(watch.before), register_optimizer_step_post_hook(watch.after))
    try:
        with contextlib.suppress(_Enough):
            run(cfg, watch.progress)
    finally:
        for hook in hooks:
            hook.remove()
    return watch.result()


def reference_of(cfg: Config, chosen: CPR, start: Tensor) -> Reference:
    """Return the reference of a run for one matrix, in float64."""
    arguments = chosen.arguments(cfg)
    inflection = chosen.kappa_init_method == "inflection_point"
    return Reference(
        start.detach().double().clone(),
        (chosen.kappa_init_method, arguments["reg_step_size" if inflection else "kappa_init_param"]),
        chosen.reg_function,
        betas=cfg.task.betas,
        eps=cfg.task.eps,
        mu=chosen.kappa_update,
        **{name: arguments[name] for name in ("evaluate_at", "adaptive", "reg_by_lr", "safeguard")},
    )


class _Enough(Exception):
    """All steps that were asked for have been compared."""


class _Watch:
    """Hooks that step the references of all matrices beside the run's optimizer."""

    def __init__(self, cfg: Config, steps: int) -> None:
        chosen = cfg.regularizer
        if not isinstance(chosen, CPR) or chosen.optimizer != "adamcpr" or chosen.reg_ema_decay:
            raise UserError(f"{cfg.regularizer.name} can't be replayed: cpr/reference.py is AdamCPR without smoothing")
        self.cfg, self.regularizer = cfg, chosen
        self.steps, self.step = steps, 0
        self.matrices: dict[Tensor, _Matrix] = {}
        self.state: dict[str, Any] = {}

    def before(self, optimizer: Optimizer, *_arguments: Any) -> None:
        """Step the references, which start from the run's weights before its first step."""
        if not isinstance(optimizer, AdamCPR):
            return
        if not self.step:
            bounded = [p for group in optimizer.param_groups if group["regularize"] for p in group["params"]]
            self.matrices = {p: _Matrix(reference_of(self.cfg, self.regularizer, p)) for p in bounded}
        for p, matrix in self.matrices.items():
            if p.grad is not None:
                matrix.step(p.grad.double(), float(optimizer.param_groups[0]["lr"]))

    def after(self, optimizer: Optimizer, *_arguments: Any) -> None:
        """Compare the run with the references."""
        if not isinstance(optimizer, AdamCPR):
            return
        self.step += 1
        for p, matrix in self.matrices.items():
            if p.grad is not None:
                matrix.compare(p.detach().double(), optimizer.state[p])
        if not self.state:
            self.state = state_of(next(iter(self.matrices)).device, 1, optimizer, None)

    def progress(self, _done: int) -> None:
        """End the run after its last step. `run` calls this after every one."""
        if self.step >= self.steps:
            raise _Enough

    def result(self) -> Replayed:
        """Return the largest differences."""
        matrices = [matrix for matrix in self.matrices.values() if matrix.reference.t]
        history = [row for matrix in matrices for row in matrix.reference.history]
        sizes = [R / kappa for R, kappa, _ in history if kappa is not None]
        return Replayed(
            kappa_init_param=matrices[0].reference.bound[1],
            steps=self.step,
            matrices=len(matrices),
            bounds=sum(matrix.reference.kappa is not None for matrix in matrices),
            theta=max(matrix.theta for matrix in matrices),
            lam=max(matrix.lam for matrix in matrices),
            kappa=max(matrix.kappa for matrix in matrices),
            same_steps=all(matrix.same_steps for matrix in matrices),
            ties=sum(matrix.ties for matrix in matrices),
            most=max(sizes, default=None),
            above=sum(size > ABOVE for size in sizes) / len(history),
            active=sum(lam > 0 for _, _, lam in history) / len(history),
            state=self.state,
        )


class _Matrix:
    """One matrix: its reference, and the largest differences so far."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.theta = self.lam = self.kappa = self.scale = 0.0
        self.same_steps, self.ties, self.samples = True, 0, 0

    def step(self, gradient: Tensor, lr: float) -> None:
        self.samples = len(self.reference.samples)
        self.reference.lr = lr
        self.reference.step(gradient)

    def compare(self, theta: Tensor, state: Mapping[str, Tensor]) -> None:
        """Compare the run's matrix and its state with the reference after the same step."""
        plain = self.reference
        lam, kappa = float(state["lagmul"]), float(state["kappa"]) if state["kappa_set"] else None
        if (kappa is None) != (plain.kappa is None):
            if self._is_tie():  # κ = R gives λ = 0, so this step is the same with and without a bound
                plain.kappa = plain.samples[-1] if plain.kappa is None else None
                self.ties += 1
            else:
                self.same_steps = False
        R = plain.history[-1][0]
        self.scale = _largest((self.scale, plain.lam, plain.mu * R))
        self.theta = _largest((self.theta, _relative((theta - plain.theta).abs().max(), plain.theta.abs().max())))
        self.lam = _largest((self.lam, _relative(lam - plain.lam, self.scale)))
        if kappa is not None and plain.kappa is not None:
            self.kappa = _largest((self.kappa, _relative(kappa - plain.kappa, plain.kappa)))

    def _is_tie(self) -> bool:
        """Return whether this step's sample of R decides the inflection point within rounding."""
        samples = self.reference.samples
        if len(samples) == self.samples or len(samples) < FIRST_DECIDING_SAMPLE:
            return False
        first, second, third = samples[-3:]
        return abs(third - 2 * second + first) <= TIE * third


def _relative(difference: Tensor | float, size: Tensor | float) -> float:
    difference, size = abs(float(difference)), float(size)
    return difference / size if size else math.inf if difference else 0.0


def _largest(values: Iterable[float]) -> float:
    """Return the largest value. A NaN is a difference without limit."""
    return max(math.inf if math.isnan(value) else value for value in values)
