"""Algorithms 1, 2 and 3 of the paper for ONE matrix, written to be read beside the page.

It is slow, and it is the oracle of every other path. It shares nothing with the fast path: R and its
gradient come from autograd, and the bounds are plain Python numbers. Notation: theta is θ, R(θ) the
measure per element, kappa κ, lam λ, mu μ. `t` counts updates, so theta is θ_t.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda theta: (theta**2).sum(),
    "l1": lambda theta: theta.abs().sum(),
    "huber": lambda theta: torch.where(theta.abs() < 1, theta**2 / 2, theta.abs() - 0.5).sum(),
    "std": lambda theta: theta.std() * theta.numel(),
}


@dataclass
class Reference:
    """Adam (without weight decay) and CPR on one matrix.

    Attributes:
        bound: ("uniform", κ), ("dependent", k), ("warm_start", s) or ("inflection_point", sampling
            interval).
        adaptive: False, "transition" or "latched".
        safeguard: False is the algorithm to the letter.
        history: (R, κ or None, λ) of every step.
    """

    theta: Tensor
    bound: tuple[str, float]
    measure: str = "l2"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    mu: float = 1.0
    evaluate_at: str = "before"
    adaptive: str | bool = False
    reg_by_lr: bool = False
    safeguard: bool = True

    t: int = 0
    lam: float = 0.0
    kappa: float | None = None
    samples: list[float] = field(default_factory=list)
    history: list[tuple[float, float | None, float]] = field(default_factory=list)
    was_active: bool = False

    def __post_init__(self) -> None:
        self.m = torch.zeros_like(self.theta)
        self.v = torch.zeros_like(self.theta)
        method, parameter = self.bound
        if method == "uniform":
            self.kappa = parameter
        if method == "dependent":
            self.kappa = parameter * self.R()

    def R(self) -> float:
        """Return the measure per element."""
        return SUMS[self.measure](self.theta).item() / self.theta.numel()

    def gradient_of_R(self) -> Tensor:
        """Return ∇ of the sum, or for std of the standard deviation itself, as in the public package."""
        theta = self.theta.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(SUMS[self.measure](theta), theta)
        return gradient / theta.numel() if self.measure == "std" else gradient

    def opt(self, g: Tensor) -> Tensor:
        """Return Opt(g_t), Adam's update."""
        beta1, beta2 = self.betas
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat = self.m / (1 - beta1 ** (self.t + 1))
        v_hat = self.v / (1 - beta2 ** (self.t + 1))
        return -self.lr * m_hat / (v_hat.sqrt() + self.eps)

    def step(self, g: Tensor) -> None:
        """Do one step of Algorithm 1 with the gradient g of the loss at θ_t."""
        update = self.opt(g)
        if self.evaluate_at == "before":
            pulled = self.constrained()  # θ_t - λ_{t+1} ∇R(θ_t)
            self.theta = pulled + update
            self.t += 1
        else:
            self.theta = self.theta + update
            self.t += 1
            self.theta = self.constrained()

    def constrained(self) -> Tensor:
        """Return the matrix after λ's update and the pull."""
        R = self.R()
        if not math.isfinite(R):  # no size, so λ and κ stay as they are
            self.history.append((R, self.kappa, self.lam))
            return self.theta - (self.lr if self.reg_by_lr else 1.0) * self.lam * self.gradient_of_R()
        self.observe(R)
        if self.kappa is None:  # no bound yet: κ = ∞ (Algorithm 2)
            self.history.append((R, None, 0.0))
            return self.theta
        before = self.lam
        if self.safeguard and R > self.excess() * self.kappa:
            self.history.append((R, self.kappa, self.lam))
            return self.theta * (self.kappa / R) ** (1 / self.degree())
        self.lam = max(0.0, self.lam + self.mu * (R - self.kappa))
        scale = self.lr if self.reg_by_lr else 1.0
        if self.safeguard:
            self.lam = min(self.lam, self.half(R) / scale)
        pulled = self.theta - scale * self.lam * self.gradient_of_R()
        if self.measure == "l1":  # an element is pulled to zero, not past it
            pulled = torch.where(pulled.sign() == -self.theta.sign(), 0, pulled)
        self.adapt(before, R)
        self.history.append((R, self.kappa, self.lam))
        return pulled

    def observe(self, R: float) -> None:
        """Set κ by Algorithm 2 (WS) or at the inflection point (IP) of section 4.3."""
        method, parameter = self.bound
        if self.kappa is not None:
            return
        if method == "warm_start" and self.t >= parameter and R > 0:
            self.kappa = R
        if method == "inflection_point" and self.t > 0 and self.t % parameter == 0:
            self.samples.append(R)  # R_1, R_2, ...
            growth = [b - a for a, b in zip(self.samples, self.samples[1:], strict=False)]
            if len(self.samples) >= 4 and growth[-1] < growth[-2] and R > 0:
                self.kappa = R

    def adapt(self, before: float, R: float) -> None:
        """Lower the bound by Algorithm 3 when λ has just fallen to zero."""
        assert self.kappa is not None
        self.was_active |= self.lam > 0
        if self.adaptive == "transition" and self.lam == 0 and before > 0 and R > 0:
            self.kappa = R
        if self.adaptive == "latched" and self.lam == 0 and self.was_active and R > 0:
            self.kappa = min(self.kappa, R)

    # The safeguard. See cpr/bounds.py for its derivation.
    def degree(self) -> int:
        return 2 if self.measure in ("l2", "huber") else 1

    def excess(self) -> float:
        return {"l2": 4.0, "huber": 4.0, "l1": 1.5, "std": 1.5}[self.measure]

    def half(self, R: float) -> float:
        """Return the λ at which one pull removes half of the matrix."""
        n = self.theta.numel()
        return {"l2": 0.25, "huber": 0.5, "l1": R / 2, "std": (n - 1) * R / 2}[self.measure]
