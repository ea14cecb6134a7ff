"""Schedule-free training wraps CPR. The bound holds for its sequence z, and so for the evaluated average x."""

from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import CPR, AdamCPR
from cpr.reference import Reference

torch.set_num_threads(1)

STEPS = 600
KI0 = {"kappa_init_method": "dependent", "kappa_init_param": 1.0}
OUT_OF_REACH = {"kappa_init_method": "uniform", "kappa_init_param": 1e6}
LR = 2e-3
ADAM = {"lr": LR, "betas": (0.0, 0.999)}


def start() -> Tensor:
    return 0.1 * torch.randn(16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def outward(steps: int = STEPS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 8, generator=generator, dtype=torch.float64) - start().sign() for _ in range(steps)]


def inner(kind: str, theta: nn.Parameter, **options: Any) -> Optimizer:
    groups = [{"params": [theta], "regularize": True}]
    if kind == "AdamCPR":
        return AdamCPR(groups, **ADAM, **options)
    return CPR(torch.optim.RMSprop(groups, lr=LR), **options)


def feed(optimizer: Any, theta: nn.Parameter, gradients: list[Tensor]) -> None:
    optimizer.train()
    for gradient in gradients:
        theta.grad = gradient.clone()
        optimizer.step()
    optimizer.eval()


def test_z_follows_algorithm_1_and_the_evaluated_weights_are_its_average_within_the_bound():
    theta = nn.Parameter(start())
    optimizer = schedulefree.ScheduleFreeWrapper(AdamCPR([{"params": [theta], "regularize": True}], **ADAM, **KI0))
    feed(optimizer, theta, outward())
    z = Reference(start(), ("dependent", 1.0), lr=LR, betas=ADAM["betas"])
    average = torch.zeros_like(z.theta)
    for t, gradient in enumerate(outward(), 1):
        z.step(gradient)
        average += (z.theta - average) / t
    assert z.kappa is not None
    assert (optimizer.state[theta]["z"] - z.theta).abs().max() <= 1e-11 * z.theta.abs().max()
    assert (theta.detach() - average).abs().max() <= 1e-11 * average.abs().max()
    assert z.lam > 1e-3
    assert z.R() == pytest.approx(z.kappa, rel=0.05)
    assert 0.5 * z.kappa <= theta.square().mean() <= 1.02 * z.kappa


def test_with_a_bound_out_of_reach_it_is_schedule_free_adamw():
    a, b = nn.Parameter(start()), nn.Parameter(start())
    feed(schedulefree.ScheduleFreeWrapper(inner("AdamCPR", a, **OUT_OF_REACH)), a, outward())
    feed(schedulefree.AdamWScheduleFree([b], lr=LR), b, outward())
    assert (a - b).abs().max() <= 1e-12 * b.abs().max()
    assert b.square().mean() >= 10 * start().square().mean()


@pytest.mark.parametrize("kind", ["AdamCPR", "CPR"])
def test_a_loaded_state_continues_to_the_bit(kind, tmp_path):
    theta = nn.Parameter(start())
    whole = schedulefree.ScheduleFreeWrapper(inner(kind, theta, **KI0))
    feed(whole, theta, outward(40))
    torch.save({"theta": theta.detach(), "state": whole.state_dict()}, tmp_path / "saved.pt")
    feed(whole, theta, outward(80)[40:])

    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    again = nn.Parameter(saved["theta"])
    loaded = schedulefree.ScheduleFreeWrapper(inner(kind, again, **KI0))
    loaded.load_state_dict(saved["state"])
    feed(loaded, again, outward(80)[40:])
    assert torch.equal(theta, again)
    assert whole.state[theta]["lagmul"] > 0
    assert all(torch.equal(value, loaded.state[again][name]) for name, value in whole.state[theta].items())


@pytest.mark.parametrize("package_s", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_cpr_around_a_schedule_free_optimizer_is_refused_and_the_message_says_what_works(package_s):
    base = getattr(schedulefree, package_s)([{"params": [nn.Parameter(start())], "regularize": True}], lr=LR)
    with pytest.raises(ValueError, match=rf"{package_s} evaluates other weights .*ScheduleFreeWrapper\(cpr\.AdamCPR"):
        CPR(base, **KI0)
