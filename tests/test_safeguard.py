"""The limits on one pull (derivation: cpr/constraint.py)."""

import pytest
import torch

from cpr import AdamCPR
from cpr.measures import MEASURES


def without_gradient(start: torch.Tensor, steps: int, measure: str, kappa: float, **options) -> list[torch.Tensor]:
    """The matrix after each step when only the constraint moves it."""
    theta = torch.nn.Parameter(start.clone())
    group = [{"params": [theta], "regularize": True}]
    optimizer = AdamCPR(group, lr=1e-3, kappa_init_method="uniform", kappa_init_param=kappa, reg_function=measure, **options)
    path = []
    for _ in range(steps):
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
        path.append(theta.detach().clone())
    return path


@pytest.mark.parametrize("kappa", [1e-6, 1e-2, 100.0])
@pytest.mark.parametrize("violation", [1.5, 3.9, 10.0, 1e4, 1e8])
@pytest.mark.parametrize("measure", ["l2", "std"])
def test_a_matrix_above_its_bound_comes_back_without_sign_flips_and_is_not_crushed(measure, violation, kappa):
    torch.manual_seed(0)
    start = torch.randn(8, 6, dtype=torch.float64)
    start -= start.mean()
    value = MEASURES[measure].value
    start *= (violation * kappa / value(start)) ** (1 / MEASURES[measure].degree)
    path = without_gradient(start, 3000, measure, kappa)
    assert all(torch.isfinite(theta).all() for theta in path)
    if measure == "l2":
        assert all(torch.equal(theta.sign(), start.sign()) for theta in path)
        assert value(path[-1]) <= 1.01 * kappa or kappa < 1e-5  # at kappa = 1e-6 the pull is slow, as in the paper
    assert min(value(theta) for theta in path) >= 0.05 * kappa


def test_without_the_safeguard_the_same_matrix_is_crushed_or_flipped():
    start = torch.full((4, 4), 10.0, dtype=torch.float64)  # R = 100, ten thousand times the bound
    path = without_gradient(start, 200, "l2", 0.01, safeguard=False)
    flipped = any((theta < 0).any() for theta in path)
    assert flipped or not torch.isfinite(path[-1]).all() or (path[-1] ** 2).mean() < 1e-4


@pytest.mark.parametrize(("method", "parameter"), [("uniform", 0.005), ("uniform", 0.16), ("dependent", 0.8), ("warm_start", 20)])
@pytest.mark.parametrize("lr", [1e-4, 1e-3, 1e-2])
def test_in_the_paper_s_regimes_it_changes_no_bit(method, parameter, lr):
    results = []
    for safeguard in (True, False):
        generator = torch.Generator().manual_seed(1)
        theta = torch.nn.Parameter(0.11 * torch.randn(16, 16, generator=generator))  # R = 2.4 times the smallest bound
        group = [{"params": [theta], "regularize": True}]
        optimizer = AdamCPR(group, lr=lr, kappa_init_method=method, kappa_init_param=parameter, safeguard=safeguard)
        for _ in range(300):
            theta.grad = torch.randn(16, 16, generator=generator) - 0.3 * theta.detach().sign()
            optimizer.step()
        results.append((theta.detach(), optimizer.state[theta]["lagmul"]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
