"""The measures R(θ): value, pull, and the largest pull that is allowed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr.measures import MEASURES, scalar_dtype
from cpr.reference import SUMS

torch.set_num_threads(1)

shapes = st.sampled_from([(2,), (3, 4), (5, 1), (2, 3, 4), (2, 1, 3, 3)])
examples = settings(max_examples=25, deadline=None, derandomize=True)
every_measure = pytest.mark.parametrize("name", MEASURES)
one = torch.tensor(1.0, dtype=torch.float64)


def random_matrix(shape: tuple, seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pulled(name: str, theta: torch.Tensor, multiplier: float) -> torch.Tensor:
    result, value = theta.clone(), MEASURES[name].value(theta)
    MEASURES[name].pull_(result, torch.full_like(value, multiplier), torch.ones_like(value), value)
    return result


@every_measure
@examples
@given(shape=shapes, seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
def test_the_value_is_the_reference_s_sum_per_element(name, shape, seed, scale):
    theta = random_matrix(shape, seed, scale)
    assert MEASURES[name].value(theta).item() == pytest.approx(SUMS[name](theta).item() / theta.numel(), rel=1e-13)


@every_measure
@examples
@given(shape=shapes, seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_the_pull_is_the_multiplier_times_autograd_s_gradient(name, shape, seed, scale):
    theta = random_matrix(shape, seed, scale)
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(leaf.std() if name == "std" else SUMS[name](leaf), leaf)
    multiplier = 1e-3 * theta.abs().min().item()  # too small for l1 to stop at zero
    assert (pulled(name, theta, multiplier) - (theta - multiplier * gradient)).abs().max() <= 1e-15 * theta.abs().max()


@examples
@given(shape=shapes, seed=st.integers(0, 10_000), multiplier=st.floats(0, 3))
def test_the_l1_pull_stops_at_zero(shape, seed, multiplier):
    theta = random_matrix(shape, seed, 1.0)
    result = pulled("l1", theta, multiplier)
    assert torch.equal(result[theta.abs() <= multiplier], torch.zeros_like(result[theta.abs() <= multiplier]))
    assert (result * theta >= 0).all()


@every_measure
@examples
@given(shape=shapes, seed=st.integers(0, 10_000), scale=st.sampled_from([1e-2, 1.0, 10.0]))
def test_the_largest_pull_takes_at_most_half_and_turns_no_sign(name, shape, seed, scale):
    theta = random_matrix(shape, seed, scale)
    theta -= theta.mean() if name == "std" else 0  # std does not see the mean
    result = pulled(name, theta, MEASURES[name].most(theta, MEASURES[name].value(theta)).item())
    assert (result * theta >= 0).all()
    assert result.norm(p=1) >= (0.5 - 1e-12) * theta.norm(p=1)


@pytest.mark.parametrize("name", ["l2", "std"])
def test_the_largest_pull_of_l2_and_std_is_exactly_half(name):
    theta = random_matrix((4, 3), 0, 1.0)
    theta -= theta.mean()
    result = pulled(name, theta, MEASURES[name].most(theta, MEASURES[name].value(theta)).item())
    assert (result - theta / 2).abs().max() <= 1e-15


@every_measure
def test_shrink_multiplies_the_matrix(name):
    theta = random_matrix((4, 3), 1, 1.0)
    result = theta.clone()
    MEASURES[name].pull_(result, 0 * one, 0.25 * one, MEASURES[name].value(theta))
    assert torch.equal(result, 0.25 * theta)


@pytest.mark.parametrize("name", ["l2", "l1", "std"])
@examples
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([1e-4, 0.5, 3.0, 1e4]))
def test_the_value_is_homogeneous_of_its_degree(name, seed, factor):
    theta, measure = random_matrix((3, 4), seed, 1.0), MEASURES[name]
    assert measure.value(factor * theta).item() == pytest.approx(factor**measure.degree * measure.value(theta).item(), rel=1e-12)


@examples
@given(seed=st.integers(0, 10_000), factor=st.floats(1.0, 1e4))
def test_huber_grows_at_most_by_its_degree(seed, factor):
    theta, huber = random_matrix((3, 4), seed, 1.0), MEASURES["huber"]
    assert factor * huber.value(theta) * (1 - 1e-12) <= huber.value(factor * theta) <= factor**2 * huber.value(theta) * (1 + 1e-12)


@pytest.mark.parametrize("name", ["l2", "l1", "huber"])
def test_a_repeated_matrix_has_the_same_value(name):
    theta = random_matrix((3, 4), 2, 1.0)
    assert MEASURES[name].value(theta.repeat(50, 2)).item() == pytest.approx(MEASURES[name].value(theta).item(), rel=1e-13)


@every_measure
def test_a_zero_matrix_has_value_zero_and_stays_zero(name):
    theta = torch.zeros(3, 4, dtype=torch.float64)
    assert MEASURES[name].value(theta) == 0
    assert torch.equal(pulled(name, theta, 0.25), theta)


@every_measure
def test_the_value_of_a_bfloat16_matrix_is_not_rounded_to_bfloat16(name):
    theta = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    value = MEASURES[name].value(theta)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(MEASURES[name].value(theta.double()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)]
)
def test_scalars_are_float64_beside_float64_and_float32_elsewhere(dtype, expected):
    assert scalar_dtype(torch.zeros(2, dtype=dtype)) == expected
