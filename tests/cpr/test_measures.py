"""The measures R(θ) have the right value, pull and largest allowed pull."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr.kernels.eager import norm_sums, pull_
from cpr.measures import MEASURES, scalar_dtype, value_of
from cpr.pieces import PIECE, pieces
from cpr.reference import SUMS

torch.set_num_threads(1)

shapes = st.sampled_from([(2,), (3, 4), (5, 1), (2, 3, 4), (2, 1, 3, 3)])
examples = settings(max_examples=25, deadline=None, derandomize=True)
every_measure = pytest.mark.parametrize("name", MEASURES)


def random_matrix(shape: tuple, seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pulled(name: str, theta: torch.Tensor, multiplier: float) -> torch.Tensor:
    return applied(name, theta, torch.full((1,), multiplier, dtype=theta.dtype), torch.ones(1, dtype=theta.dtype))


def applied(name: str, theta: torch.Tensor, multiplier: torch.Tensor, shrink: torch.Tensor) -> torch.Tensor:
    measure, result, n = MEASURES[name], theta.clone(), torch.tensor([theta.numel()], dtype=torch.float64)
    sums = measure.sums(theta)[None]
    pull_([result], measure.pull(multiplier, shrink, measure.value(sums, n), sums, n), measure)
    return result


def most(name: str, theta: torch.Tensor) -> float:
    n = torch.tensor([theta.numel()], dtype=torch.float64)
    return MEASURES[name].most(value_of(name, theta)[None], n).item()


@every_measure
@examples
@given(shape=shapes, seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
def test_the_value_is_the_reference_s_sum_per_element(name, shape, seed, scale):
    theta = random_matrix(shape, seed, scale)
    assert value_of(name, theta).item() == pytest.approx(SUMS[name](theta).item() / theta.numel(), rel=1e-13)


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
def test_the_largest_pull_removes_at_most_half_and_flips_no_sign(name, shape, seed, scale):
    theta = random_matrix(shape, seed, scale)
    theta -= theta.mean() if name == "std" else 0  # std does not depend on the mean
    result = pulled(name, theta, most(name, theta))
    assert (result * theta >= 0).all()
    assert result.norm(p=1) >= (0.5 - 1e-12) * theta.norm(p=1)


@pytest.mark.parametrize("name", ["l2", "std"])
def test_the_largest_pull_of_l2_and_std_is_exactly_half(name):
    theta = random_matrix((4, 3), 0, 1.0)
    theta -= theta.mean()
    result = pulled(name, theta, most(name, theta))
    assert (result - theta / 2).abs().max() <= 1e-15


@every_measure
def test_shrink_multiplies_the_matrix(name):
    theta = random_matrix((4, 3), 1, 1.0)
    result = applied(name, theta, torch.zeros(1, dtype=theta.dtype), torch.full((1,), 0.25, dtype=theta.dtype))
    assert torch.equal(result, 0.25 * theta)


@pytest.mark.parametrize("name", ["l2", "l1", "std"])
@examples
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([1e-4, 0.5, 3.0, 1e4]))
def test_the_value_is_homogeneous(name, seed, factor):
    theta = random_matrix((3, 4), seed, 1.0)
    expected = factor ** MEASURES[name].degree * value_of(name, theta).item()
    assert value_of(name, factor * theta).item() == pytest.approx(expected, rel=1e-12)


@examples
@given(seed=st.integers(0, 10_000), factor=st.floats(1.0, 1e4))
def test_huber_grows_at_most_by_its_degree(seed, factor):
    theta = random_matrix((3, 4), seed, 1.0)
    small, large = value_of("huber", theta), value_of("huber", factor * theta)
    assert factor * small * (1 - 1e-12) <= large <= factor**2 * small * (1 + 1e-12)


@pytest.mark.parametrize("name", ["l2", "l1", "huber"])
def test_a_repeated_matrix_has_the_same_value(name):
    theta = random_matrix((3, 4), 2, 1.0)
    assert value_of(name, theta.repeat(50, 2)).item() == pytest.approx(value_of(name, theta).item(), rel=1e-13)


@every_measure
def test_a_zero_matrix_has_value_zero_and_stays_zero(name):
    theta = torch.zeros(3, 4, dtype=torch.float64)
    assert value_of(name, theta) == 0
    assert torch.equal(pulled(name, theta, 0.25), theta)


@every_measure
def test_the_value_of_a_bfloat16_matrix_is_not_rounded_to_bfloat16(name):
    theta = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    value = value_of(name, theta)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(value_of(name, theta.double()).item(), rel=1e-6)


WIDE = torch.arange(2.0 * 3 * 50_000)
LAYOUTS = {
    "contiguous": WIDE,
    "transposed": WIDE.view(3, 100_000).T,
    "every other column": WIDE.view(50_000, 6)[:, ::2],
    "one row, strided": WIDE.view(150_000, 2)[:, :1].T,
    "channels last": WIDE.view(2, 3, 250, 200).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pieces_are_small_and_hold_every_element_once(layout):
    found = list(pieces(LAYOUTS[layout]))
    assert max(piece.numel() for piece in found) <= PIECE
    assert torch.equal(
        torch.cat([piece.flatten() for piece in found]).sort().values, LAYOUTS[layout].flatten().sort().values
    )
    storage = LAYOUTS[layout].untyped_storage().data_ptr()
    assert all(piece.untyped_storage().data_ptr() == storage for piece in found)


@every_measure
@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_and_pull_do_not_depend_on_the_layout(name, layout):
    theta = LAYOUTS[layout] / 1e5 - 1.3
    copy = theta.clone(memory_format=torch.contiguous_format)
    assert value_of(name, theta).item() == pytest.approx(value_of(name, copy.double()).item(), rel=1e-6)
    assert (pulled(name, theta, 1e-3) - pulled(name, copy, 1e-3)).abs().max() <= 1e-6


@every_measure
@pytest.mark.parametrize("start", ["normal", "all equal"])
def test_the_value_of_twenty_million_elements_is_exact_to_1e_6(name, start):
    theta = (
        torch.randn(20_000_001, generator=torch.Generator().manual_seed(0))
        if start == "normal"
        else torch.full((20_000_001,), 0.0123)
    )
    theta[0] = 2.0  # the std of equal elements would be zero
    assert value_of(name, theta).item() == pytest.approx(value_of(name, theta.double()).item(), rel=1e-6)


@pytest.mark.parametrize(("name", "order"), [("l2", 2), ("l1", 1)])
def test_the_norms_of_all_parameters_at_once_equal_the_separate_norms(name, order):
    theta = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (1, 300, 70_000)]
    exact = torch.stack([MEASURES[name].sums(t.double()) for t in theta])
    assert torch.allclose(norm_sums(theta, order), exact, rtol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_scalars_are_float64_for_float64_parameters_and_float32_otherwise(dtype, expected):
    assert scalar_dtype(torch.zeros(2, dtype=dtype)) == expected
