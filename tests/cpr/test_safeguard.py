"""The safeguard limits each pull (derivation: cpr/bounds.py)."""

from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpr import AdamCPR
from cpr.measures import MEASURES, value_of

torch.set_num_threads(1)

bounds = st.sampled_from([1e-4, 1e-2, 1.0, 100.0])  # a swing takes 1 / sqrt(mu kappa) steps, so 1e-6 has its own cases


def start_of_size(value: float, measure: str, seed: int = 0) -> torch.Tensor:
    """Return a random matrix with mean 0 and measure `value`. Huber is not homogeneous, so bisect."""
    start = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start -= start.mean()
    low, high = -15.0, 15.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if value_of(measure, 10**middle * start) < value else (low, middle)
    return 10**high * start


def without_gradient(
    start: torch.Tensor, measure: str, kappa: float, steps: int = 6000, **options
) -> list[torch.Tensor]:
    """Return the matrix after each step until it stops moving. Only the constraint moves it."""
    theta = torch.nn.Parameter(start.clone())
    group = [{"params": [theta], "regularize": True}]
    optimizer = AdamCPR(
        group, lr=1e-3, kappa_init_method="uniform", kappa_init_param=kappa, reg_function=measure, **options
    )
    path = []
    for _ in range(steps):
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
        path.append(theta.detach().clone())
        settled = 1e-9 * kappa
        if optimizer.state[theta]["lagmul"] <= settled and value_of(measure, theta.detach()) <= kappa + settled:
            break
    return path


def assert_brought_back(
    path: list[torch.Tensor], start: torch.Tensor, measure: str, kappa: float, least: float
) -> None:
    value = partial(value_of, measure)
    stacked = torch.stack(path)
    assert stacked.isfinite().all()
    assert (stacked * start >= 0).all()
    assert min(value(theta) for theta in path) >= least * kappa
    assert value(path[-1]) <= 1.01 * kappa


@pytest.mark.parametrize(
    ("violation", "kappa"),
    [(v, k) for k in (1e-2, 100.0) for v in (1.5, 3.9, 10.0, 1e4, 1e8)] + [(3.9, 1e-6), (1e4, 1e-6)],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_matrix_above_its_bound_comes_back_without_sign_flips_and_is_not_crushed(measure, violation, kappa):
    start = start_of_size(violation * kappa, measure)
    assert_brought_back(without_gradient(start, measure, kappa), start, measure, kappa, least=0.05)


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(power=st.floats(0.01, 8), kappa=bounds, seed=st.integers(0, 1000))
def test_any_violation_up_to_ten_to_the_eighth_is_brought_back(measure, power, kappa, seed):
    start = start_of_size(10**power * kappa, measure, seed)
    assert_brought_back(without_gradient(start, measure, kappa), start, measure, kappa, least=0.05)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("factor", [10.0, 1e4, 1e8])
def test_a_matrix_enlarged_during_training_comes_back(measure, factor):
    theta = torch.nn.Parameter(start_of_size(0.01, measure))
    group = [{"params": [theta], "regularize": True}]
    optimizer = AdamCPR(group, lr=1e-3, kappa_init_method="dependent", kappa_init_param=1, reg_function=measure)
    generator = torch.Generator().manual_seed(1)
    for step in range(600):
        if step == 100:
            signs = theta.detach().sign()
            theta.data.mul_(factor)
        theta.grad = (
            torch.zeros_like(theta) if step >= 100 else torch.randn(8, 6, generator=generator, dtype=torch.float64)
        )
        optimizer.step()
        if step == 100 and measure != "std":  # std's pull keeps the mean, so it may flip a sign
            assert torch.equal(theta.detach().sign(), signs)
    kappa = optimizer.state[theta]["kappa"]
    assert 0.05 * kappa <= value_of(measure, theta.detach()) <= 1.1 * kappa


@settings(max_examples=25, deadline=None, derandomize=True)
@given(violation=st.floats(1.001, 4), kappa=bounds, mu=st.sampled_from([0.1, 1.0, 10.0]))
@example(violation=4.0, kappa=1e-2, mu=1.0)
@example(violation=4.0, kappa=1.0, mu=0.01)
def test_l2_released_at_four_times_the_bound_or_below_keeps_seven_hundredths_of_it(violation, kappa, mu):
    start = start_of_size(violation * kappa, "l2")
    path = without_gradient(start, "l2", kappa, kappa_update=mu)
    assert_brought_back(path, start, "l2", kappa, least=0.07)


@pytest.mark.parametrize("violation", [1.1, 1.5, 1.9])
def test_l2_swings_to_the_equal_deflection_of_the_pendulum(violation):
    kappa = 1e-4
    path = without_gradient(start_of_size(violation * kappa, "l2"), "l2", kappa)
    lowest = (path[-1].square().mean() / kappa).item()
    assert torch.tensor(lowest).log().item() - lowest == pytest.approx(
        torch.tensor(violation).log().item() - violation, rel=0.02
    )


@pytest.mark.parametrize("violation", [1.1, 1.3, 1.49])
def test_std_swings_to_the_mirror_image_of_its_violation(violation):
    path = without_gradient(start_of_size(0.01 * violation, "std"), "std", 0.01)
    assert path[-1].std().item() == pytest.approx(0.01 * (2 - violation), rel=0.03)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_matrix_on_its_bound_is_not_touched(measure):
    start = start_of_size(0.01, measure)
    (after,) = without_gradient(start, measure, value_of(measure, start).item())
    assert torch.equal(after, start)


@pytest.mark.parametrize("measure", ["l2", "std", "l1"])
def test_a_matrix_more_than_twice_too_large_is_on_its_bound_after_one_step(measure):
    (after, *_) = without_gradient(start_of_size(50.0, measure), measure, 0.01)
    assert value_of(measure, after).item() == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("violation", [1.51, 1.9, 2.0, 2.1])
def test_std_above_one_and_a_half_times_its_bound_is_put_onto_the_bound(violation):
    start = start_of_size(0.01 * violation, "std")
    assert without_gradient(start, "std", 0.01)[-1].std().item() == pytest.approx(0.01)
    if violation < 2:
        alone = without_gradient(start, "std", 0.01, safeguard=False)[-1].std().item()
        assert alone == pytest.approx(0.01 * (2 - violation), rel=0.1)


def test_without_the_safeguard_the_same_matrix_is_crushed_or_flipped():
    start = torch.full((4, 4), 10.0, dtype=torch.float64)  # R = 100, ten thousand times the bound
    path = without_gradient(start, "l2", 0.01, steps=200, safeguard=False)
    flipped = any((theta < 0).any() for theta in path)
    assert flipped or not torch.isfinite(path[-1]).all() or (path[-1] ** 2).mean() < 1e-4


def test_without_the_safeguard_a_small_bound_violated_ten_thousand_times_is_crushed():
    start = start_of_size(1e-2, "l2")
    path = without_gradient(start, "l2", 1e-6, steps=2000, safeguard=False)
    assert path[-1].square().mean() < 1e-3 * 1e-6


def both_ways(
    start: torch.Tensor, method: str, parameter: float, lr: float, seed: int, drift: float
) -> list[tuple[torch.Tensor, ...]]:
    """Return θ, λ and the largest λ after 300 equal steps, with and without the safeguard."""
    results = []
    for safeguard in (True, False):
        generator = torch.Generator().manual_seed(seed)
        theta = torch.nn.Parameter(start.clone())
        group = [{"params": [theta], "regularize": True}]
        optimizer = AdamCPR(group, lr=lr, kappa_init_method=method, kappa_init_param=parameter, safeguard=safeguard)
        largest = torch.zeros(())
        for _ in range(300):
            theta.grad = torch.randn(16, 16, generator=generator) - drift * start.sign()
            optimizer.step()
            largest = torch.maximum(largest, optimizer.state[theta]["lagmul"])
        results.append((theta.detach(), optimizer.state[theta]["lagmul"], largest))
    return results


def assert_same_bits(results: list[tuple[torch.Tensor, ...]]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("method", "parameter"), [("uniform", 0.005), ("uniform", 0.16), ("dependent", 0.8), ("warm_start", 20)]
)
@pytest.mark.parametrize("lr", [1e-4, 1e-3, 1e-2])
def test_the_safeguard_changes_no_bit_in_the_paper_s_regimes(method, parameter, lr):
    start = 0.11 * torch.randn(16, 16, generator=torch.Generator().manual_seed(1))  # R = 2.4 times the smallest bound
    assert_same_bits(both_ways(start, method, parameter, lr, seed=1, drift=0.3))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    bound=st.one_of(
        st.tuples(st.just("uniform"), st.floats(0.005, 0.16)),
        st.tuples(st.just("dependent"), st.floats(0.8, 3)),
        st.tuples(st.just("warm_start"), st.integers(0, 200)),
    ),
    violation=st.floats(0.2, 2.5),
    power=st.floats(-4, -2),
    seed=st.integers(0, 1000),
)
def test_the_safeguard_changes_no_bit_in_regimes_like_the_paper_s(bound, violation, power, seed):
    method, parameter = bound
    start = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    start *= ((violation * parameter if method == "uniform" else 0.02 * violation) / start.square().mean()).sqrt()
    assert_same_bits(both_ways(start, method, parameter, 10**power, seed, drift=0.2))


@pytest.mark.parametrize(("method", "parameter"), [("uniform", 0.01), ("dependent", 0.8), ("warm_start", 20)])
def test_in_those_regimes_the_constraint_acts(method, parameter):
    start = 0.11 * torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    assert both_ways(start, method, parameter, 1e-3, seed=1, drift=0.3)[0][2] > 0
