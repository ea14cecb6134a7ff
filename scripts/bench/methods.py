"""The timed optimizers, with settings that make every step a full one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from cpr import CPR, AdamCPR
from cpr.baselines import AMOS, AdamAdaDecay, AdamAWD, AdamC, CautiousAdamW, Hyperball
from cpr.kernels import select
from cpr.settings import KERNELS as CHOICES
from results.step_times import AFTER, IN_TURN

Groups = list[dict[str, Any]]

REFERENCE = "AdamW, fused"
LR = 1e-6  # small: many steps with the same gradients must not carry the parameters away
# These bounds pull at every timed step. The CPU's kernel skips the pull of a matrix if 1 - 2 λ is 1 in
# float32, that is, if λ < 1.5e-8. `measure.make_pull` sets λ to MULTIPLIER after the first step. From
# there λ never falls, because R stays above κ = 0.9 R(θ_0). It hardly rises, because μ is small. A pull
# shrinks R by 4 parts in a million (4 λ).
BOUND: dict[str, Any] = {"kappa_init_method": "dependent", "kappa_init_param": 0.9, "kappa_update": 1e-6}
MULTIPLIER = 2.0**-20
KERNELS = {"cpu": ("cpu", "eager"), "cuda": ("triton", "eager")}  # fastest first


@dataclass(frozen=True)
class Method:
    """An optimizer with its name in the tables.
    row: the paper's row that it stands for.
    moved: bytes per float32 parameter that every implementation must move.
    copies, largest: what a step holds beside parameters, gradients and two moments, in copies of all
        parameters and of the largest one.
    moments: "shared"; "own" if its first step makes its own, which the shared ones then replace; "none"
        if it has none.
    in_turn: at every step another parameter has no gradient.
    """

    label: str
    make: Callable[[Groups], Optimizer]
    row: str | None = None
    moved: int = 28  # reads parameter, gradient and both moments; writes all but the gradient
    copies: float = 0
    largest: float = 0
    moments: str = "shared"
    in_turn: bool = False

    def extra_bytes(self, model: nn.Module) -> int:
        """Return an upper bound of the memory beside what all methods share.
        It covers a step, and the first step if that makes its own moments.
        """
        sizes = [4 * p.numel() for p in model.parameters()]
        return int((self.copies + 2 * (self.moments == "own")) * sum(sizes) + self.largest * max(sizes))


def _decayed(groups: Groups) -> Groups:
    return [group | {"weight_decay": 0.1 if group["regularize"] else 0.0} for group in groups]


def methods(device: torch.device) -> list[Method]:
    """Return the methods that this machine and device support, the reference first."""
    # torch's default on a GPU is foreach, with square roots for all parameters at once.
    foreach = 1 if device.type == "cuda" else 0
    largest = 2 if device.type == "cpu" else 0
    found = [
        Method(REFERENCE, lambda g: AdamW(_decayed(g), lr=LR, fused=True), "adamw"),
        Method("AdamW, default", lambda g: AdamW(_decayed(g), lr=LR), copies=foreach, largest=largest),
        Method("AdamW, foreach", lambda g: AdamW(_decayed(g), lr=LR, foreach=True), copies=1),
        *_adamcpr(device),
        Method("CPR around Adam, fused", lambda g: CPR(Adam(g, lr=LR, fused=True), **BOUND)),
        Method("AdaDecay", lambda g: AdamAdaDecay(g, lr=LR), "adadecay", copies=foreach, largest=4),
        Method("AWD", lambda g: AdamAWD(g, lr=LR), "awd", copies=foreach, largest=2),
        Method("AMOS", lambda g: AMOS(g, lr=LR), "amos", moved=16, moments="none"),
        Method("Cautious decay", lambda g: CautiousAdamW(g, lr=LR), copies=foreach, largest=4),
        Method("AdamC", lambda g: AdamC(g, lr=LR), copies=foreach, largest=2),
        Method("Hyperball around Adam, fused", lambda g: Hyperball(Adam(g, lr=LR, fused=True)), copies=1, largest=2),
    ]
    try:
        from pytorch_cpr import AdamCPR as Published
    except ImportError:
        return found
    return [*found, Method("pytorch-cpr", lambda g: Published(g, lr=LR, **BOUND), copies=1, largest=1, moments="own")]


def methods_in_turn(device: torch.device) -> list[Method]:
    """Return the reference and AdamCPR with its fastest kernel, each with all gradients and with gradients in turn."""
    chosen = [method for method in methods(device) if method.label == REFERENCE or method.row == "adamcpr"]
    return [
        each
        for method in chosen
        for each in (method, replace(method, label=method.label + IN_TURN, row=None, in_turn=True))
    ]


def _adamcpr(device: torch.device) -> list[Method]:
    """Return AdamCPR with each kernel that the device supports.
    The fastest kernel stands for the paper's row, and also comes with evaluate_at="after".
    """
    found: list[Method] = []
    for kernel in KERNELS[device.type]:
        if kernel not in CHOICES:
            continue
        try:
            select(torch.empty(1, device=device), kernel)
        except ValueError:
            continue
        make = partial(AdamCPR, lr=LR, kernel=kernel, **BOUND)
        found.append(Method(f"AdamCPR, {kernel}", make, None if found else "adamcpr"))
        if len(found) == 1:
            found.append(Method(AFTER, partial(make, evaluate_at="after")))
    return found
