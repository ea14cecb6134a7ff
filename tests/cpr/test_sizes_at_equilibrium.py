"""The sizes that docs/explanation/weight-norms.md derives, on gradients of pure noise, where c is 1."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import AdamCPR, snapshot
from cpr.baselines import AdamC, Hyperball

torch.set_num_threads(1)

LR, STEPS = 1e-2, 1500
ADAM = {"lr": LR, "betas": (0.9, 0.999)}


def trained(optimizer: Optimizer, theta: nn.Parameter, steps: int = STEPS, lr: float = LR, seed: int = 0) -> float:
    """Return the mean square after some steps on noise, as a mean over the second half of them."""
    generator, sizes = torch.Generator().manual_seed(seed), []
    for group in optimizer.param_groups:
        group["lr"] = lr
    for _ in range(steps):
        theta.grad = torch.randn(theta.shape, generator=generator)
        optimizer.step()
        sizes.append(theta.detach().square().mean().item())
    return sum(sizes[steps // 2 :]) / (steps - steps // 2)


def start() -> tuple[nn.Parameter, list[dict]]:
    theta = nn.Parameter(0.1 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    return theta, [{"params": [theta], "regularize": True}]


def noise_growth() -> float:
    """Return c, by how much a step of Adam on noise increases the mean square, over lr^2."""
    theta, groups = start()
    before = theta.detach().square().mean().item()
    optimizer = torch.optim.Adam(groups, **ADAM)
    trained(optimizer, theta)
    return (theta.detach().square().mean().item() - before) / (STEPS * LR**2)


def test_without_regularization_the_mean_square_grows_by_lr_squared_whatever_the_momentum():
    assert noise_growth() == pytest.approx(1, rel=0.05)


def test_weight_decay_leads_to_a_size_in_proportion_to_the_learning_rate():
    theta, groups = start()
    optimizer = torch.optim.AdamW([group | {"weight_decay": 0.5} for group in groups], **ADAM)
    assert trained(optimizer, theta) == pytest.approx(LR / (2 * 0.5), rel=0.1)
    assert trained(optimizer, theta, lr=LR / 4, steps=6000, seed=1) == pytest.approx(LR / 4 / (2 * 0.5), rel=0.15)


def test_a_decay_of_lr_squared_leads_to_one_size_for_every_learning_rate():
    theta, groups = start()
    optimizer = AdamC(groups, weight_decay=0.5, **ADAM)
    assert trained(optimizer, theta) == pytest.approx(LR / (2 * 0.5), rel=0.1)
    assert trained(optimizer, theta, lr=LR / 4, steps=6000, seed=1) == pytest.approx(LR / (2 * 0.5), rel=0.1)


def test_an_active_bound_s_multiplier_is_lr_squared_over_four_times_the_bound():
    theta, groups = start()
    optimizer = AdamCPR(groups, kappa_init_method="dependent", kappa_init_param=1.0, **ADAM)
    for lr in (LR, LR / 2):
        trained(optimizer, theta, lr=lr)
        lams = []
        for seed in range(1000):
            trained(optimizer, theta, steps=1, lr=lr, seed=seed)
            (bound,) = snapshot(optimizer).values()
            lams.append(bound.lam)
        assert sum(lams) / 1000 == pytest.approx(lr**2 / (4 * bound.kappa), rel=0.1)


def test_a_bound_at_the_initial_size_and_hyperball_stay_on_one_sphere():
    sizes: dict[str, Tensor] = {}
    for name in ("CPR", "Hyperball"):
        theta, groups = start()
        before = theta.detach().square().mean()
        optimizer: Optimizer
        if name == "CPR":
            optimizer = AdamCPR(groups, kappa_init_method="dependent", kappa_init_param=1.0, **ADAM)
        else:
            optimizer = Hyperball(torch.optim.Adam(groups, **ADAM))
        trained(optimizer, theta)
        sizes[name] = theta.detach().square().mean() / before
    assert sizes["CPR"] == pytest.approx(1, rel=0.05)
    assert sizes["Hyperball"] == pytest.approx(1, rel=1e-5)
