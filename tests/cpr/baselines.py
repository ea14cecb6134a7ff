"""Build each baseline, with parameters and gradients to test it on, and compare results."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import regularized_groups
from cpr.baselines import AMOS, AdamAdaDecay, AdamAWD, AdamC, AdamHD, CautiousAdamW, DecayScheduledAdamW, Hyperball

STEPS = 200
LR, BETAS, EPS = 3e-3, (0.9, 0.98), 1e-8
ADAM: dict[str, Any] = {"lr": LR, "betas": BETAS, "eps": EPS}
SHAPES = ((6, 5), (4, 3, 2, 2), (6,))  # the first two are regularized
CLOSE = 1e-12


def hyperball(params: Any, **options: Any) -> Hyperball:
    groups = regularized_groups(params) if isinstance(params, nn.Module) else params
    return Hyperball(torch.optim.Adam(groups, **({"lr": 1e-2} | options)))


# Builders of each baseline on parameter groups, with a decay that is strong enough to show.
METHODS: dict[str, Callable[..., Optimizer]] = {
    "adadecay": lambda groups, **options: AdamAdaDecay(groups, **({"lr": 1e-2, "weight_decay": 0.5} | options)),
    "awd": lambda groups, **options: AdamAWD(groups, **({"lr": 1e-2, "weight_decay": 0.5} | options)),
    "awd per tensor": lambda groups, **options: AdamAWD(
        groups, scope="tensor", **({"lr": 1e-2, "weight_decay": 0.5} | options)
    ),
    "awd coupled": lambda groups, **options: AdamAWD(
        groups, coupled=True, **({"lr": 1e-2, "weight_decay": 0.5} | options)
    ),
    "schedule": lambda groups, **options: DecayScheduledAdamW(
        groups, 50, **({"lr": 1e-2, "weight_decay": 0.5} | options)
    ),
    "cautious": lambda groups, **options: CautiousAdamW(groups, **({"lr": 1e-2, "weight_decay": 0.5} | options)),
    "corrected": lambda groups, **options: AdamC(
        groups, **({"lr": 1e-2, "weight_decay": 0.5, "lr_max": 2e-2} | options)
    ),
    "huber": lambda groups, **options: AdamHD(groups, **({"lr": 1e-2, "weight_decay": 0.5} | options)),
    "amos": lambda groups, **options: AMOS(groups, **({"lr": 1e-2, "extra_l2": 1e-3} | options)),
    "hyperball": hyperball,
}
DECAYED = [name for name in METHODS if name not in ("amos", "hyperball")]


def starts(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter((0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)) for shape in SHAPES
    ]


def gradients(steps: int = STEPS) -> list[list[Tensor]]:
    """Return noise around a direction, the same at every call. Some elements have far larger noise."""
    generator = torch.Generator().manual_seed(2)

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shift = [(noise(shape), noise(shape).exp()) for shape in SHAPES]
    return [
        [mean + width * noise(shape) for shape, (mean, width) in zip(SHAPES, shift, strict=True)] for _ in range(steps)
    ]


def two_groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": parameters[:2], "regularize": True}, {"params": parameters[2:], "regularize": False}]


def feed(optimizer: Optimizer, parameters: list[nn.Parameter], given: Iterable[list[Tensor]]) -> None:
    for step in given:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def assert_close(parameters: list[nn.Parameter], plain: list[Tensor]) -> None:
    for parameter, expected in zip(parameters, plain, strict=True):
        assert (parameter.detach() - expected).abs().max() <= CLOSE * expected.abs().max()


def assert_equal(first: list[nn.Parameter], second: list[nn.Parameter]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def small_network() -> nn.Sequential:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).double()
    nn.init.uniform_(model[1].weight, 0.5, 2)
    return model
