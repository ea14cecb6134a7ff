"""The fast AdamCPR against Algorithms 1 to 3 written plainly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr import CPR, AdamCPR
from cpr.reference import Reference

MEASURES = ("l2", "l1", "huber", "std")
BOUNDS = (("uniform", 0.01), ("dependent", 1.1), ("warm_start", 20), ("inflection_point", 7))
STEPS = 300


def compare(dtype: torch.dtype, tolerance: float, seed: int, bound: tuple, measure: str, mu: float = 1.0, **options) -> Reference:
    """Both optimizers on one matrix with the same noisy, outward gradients; fails where θ, λ or κ differ."""
    generator = torch.Generator().manual_seed(seed)
    start = 0.05 * torch.randn(6, 5, generator=generator, dtype=dtype)
    method, parameter = bound
    interval = parameter if method == "inflection_point" else 200
    fast = torch.nn.Parameter(start.clone())
    cpr_arguments = {"kappa_init_method": method, "reg_function": measure, "reg_step_size": interval, "kappa_update": mu}
    optimizer = AdamCPR(
        [{"params": [fast], "regularize": True}],
        lr=3e-3,
        kappa_init_param=None if method == "inflection_point" else parameter,
        **cpr_arguments,
        **options,
    )
    plain = Reference(start.clone(), bound, measure, lr=3e-3, mu=mu, **options)
    for _ in range(STEPS):
        g = torch.randn(6, 5, generator=generator, dtype=dtype) - 0.7 * start.sign()
        fast.grad = g.clone()
        optimizer.step()
        plain.step(g)
    state = optimizer.state[fast]
    assert (fast.detach() - plain.theta).abs().max() <= tolerance * plain.theta.abs().max()
    assert state["lagmul"].item() == pytest.approx(plain.lam, rel=100 * tolerance, abs=tolerance)
    assert state["kappa_set"].item() == (plain.kappa is not None)
    if plain.kappa is not None:
        assert state["kappa"].item() == pytest.approx(plain.kappa, rel=100 * tolerance)
    return plain


@pytest.mark.parametrize("evaluate_at", ["before", "after"])
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: b[0])
@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), adaptive=st.sampled_from([False, "transition", "latched"]), mu=st.sampled_from([0.1, 1.0]))
def test_float64_equals_the_reference(measure, bound, evaluate_at, seed, adaptive, mu):
    compare(torch.float64, 1e-12, seed, bound, measure, mu, evaluate_at=evaluate_at, adaptive=adaptive)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: b[0])
def test_float32_equals_the_reference(bound):
    compare(torch.float32, 1e-5, 3, bound, "l2")


def test_the_problems_are_ones_in_which_the_constraint_acts():
    plain = compare(torch.float64, 1e-12, 1, ("warm_start", 20), "l2")
    assert plain.kappa is not None and max(lam for _, _, lam in plain.history) > 0


def test_with_a_zero_multiplier_it_is_adam_to_the_bit():
    torch.manual_seed(0)
    a, b = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    ours = AdamCPR([{"params": [a], "regularize": True}], lr=1e-3, kappa_init_method="uniform", kappa_init_param=100.0)
    theirs = torch.optim.Adam([b], lr=1e-3)
    for _ in range(50):
        a.grad = torch.randn(4, 3)
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(a, b)


def test_the_wrapper_around_adam_equals_adamcpr():
    torch.manual_seed(0)
    start = 0.1 * torch.randn(5, 4, dtype=torch.float64)
    a, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    arguments = {"kappa_init_method": "warm_start", "kappa_init_param": 10}
    ours = AdamCPR([{"params": [a], "regularize": True}], lr=1e-2, **arguments)
    wrapped = CPR(torch.optim.Adam([{"params": [b], "regularize": True}], lr=1e-2), **arguments)
    for _ in range(100):
        a.grad = torch.randn(5, 4, dtype=torch.float64) - start.sign()
        b.grad = a.grad.clone()
        ours.step()
        wrapped.step()
    assert torch.equal(a, b)
    assert torch.equal(ours.state[a]["lagmul"], wrapped.state[b]["lagmul"])
