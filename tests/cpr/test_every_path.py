"""Every path of a CPR step follows the same rules: reference, torch's operations, C++, Triton, shards.

Without a GPU, Triton runs in its interpreter. References run in float64 on the same rounded
numbers. Elements agree to 1e-6 of the largest one (at least of 1) in float32. λ adds up rounded
values of R, so it agrees to 4e-6 of its largest value or increment.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from paths import OPTIMIZERS, PATHS, advance, device, ends, optimizer, outward, placed, train

from cpr.reference import Reference

torch.set_num_threads(1)

MEASURES = ("l2", "l1", "huber", "std")
SHAPES = [(6, 5), (15,), (4, 1, 4), (7, 31)]
TOLERANCE = 1e-6
BOUNDS = {
    "uniform": {"kappa_init_method": "uniform", "kappa_init_param": 0.02},
    "dependent": {"kappa_init_method": "dependent", "kappa_init_param": 1.1},
    "warm_start": {"kappa_init_method": "warm_start", "kappa_init_param": 10},
    "inflection_point": {"kappa_init_method": "inflection_point", "reg_step_size": 6},
}
NEVER = {"kappa_init_method": "uniform", "kappa_init_param": 1e6}
every_path = pytest.mark.parametrize("path", PATHS)
every_optimizer = pytest.mark.parametrize("path", OPTIMIZERS)


def but_triton_weekly(paths: tuple[str, ...]) -> pytest.MarkDecorator:
    """Test many examples on every path, and Triton's weekly: its interpreter is slow."""
    return pytest.mark.parametrize(
        "path", [pytest.param(p, marks=pytest.mark.weekly if p == "triton" else ()) for p in paths]
    )


def rounded(starts, gradients, dtype=torch.float32):
    return [s.to(dtype) for s in starts], [[g.to(dtype) for g in step] for step in gradients]


def assert_equals_the_reference(
    path: str, starts, gradients, bound_tolerance: float = 20 * TOLERANCE, **options
) -> list:
    """Check a path in float32 and return the end of the reference.

    `bound_tolerance` is relative to κ. R may swing, and κ is its value at one moment.
    """
    starts, gradients = rounded(starts, gradients)
    exact = train("reference", [s.double() for s in starts], gradients, **options)
    assert_equals(path, exact, starts, gradients, bound_tolerance, **options)
    return exact


def assert_equals(path: str, exact, starts, gradients, bound_tolerance: float, **options) -> None:
    """Check a path against the end of the reference, on the same numbers in float32."""
    found = train(path, starts, gradients, **options)
    for ours, plain in zip(found, exact, strict=True):
        size = max(1.0, plain.theta.abs().max().item())
        assert (ours.theta - plain.theta).abs().max() <= TOLERANCE * size
        assert (ours.bound is None) == (plain.bound is None)
        if plain.bound is not None:
            assert ours.bound == pytest.approx(plain.bound, rel=bound_tolerance)
        growth = options.get("kappa_update", 1.0) * max(1.0, plain.theta.square().mean().item())
        assert ours.multiplier == pytest.approx(plain.multiplier, abs=4 * TOLERANCE * max(plain.multiplier, growth))


def assert_equal_up_to_bfloat16(path: str, starts, gradients, **options) -> None:
    found = train(path, starts, gradients, **options)
    exact = train("reference", [s.double() for s in starts], gradients, **options)
    # Triton's interpreter truncates where a GPU rounds. torch's own operations round the pull and Adam's
    # update separately. So does every path that pulls after the update.
    rounds_once = path in ("cpu", "dtensor") and options.get("evaluate_at") != "after"
    precision = 2**-8 if rounds_once else 2**-6
    for ours, plain in zip(found, exact, strict=True):
        assert (ours.theta - plain.theta).abs().max() <= precision * plain.theta.abs().max()


def combinations() -> Iterator[Any]:
    """Yield each path, measure, method and evaluate_at.

    Triton's interpreter is slow. Before every push it gets each measure and each method with both values
    of `evaluate_at`. Its other combinations are weekly.
    """
    for path, (m, measure), (b, method), (e, evaluate_at) in itertools.product(
        PATHS, enumerate(MEASURES), enumerate(BOUNDS), enumerate(("before", "after"))
    ):
        weekly = path == "triton" and device(path) == "cpu" and b != (m + e) % len(BOUNDS)
        yield pytest.param(path, measure, method, evaluate_at, marks=pytest.mark.weekly if weekly else ())


@pytest.mark.parametrize(("path", "measure", "method", "evaluate_at"), list(combinations()))
def test_it_is_the_paper_s_algorithm(path, measure, method, evaluate_at):
    starts, gradients = outward(SHAPES, steps=50, seed=3)
    exact = assert_equals_the_reference(
        path, starts, gradients, lr=1e-2, reg_function=measure, evaluate_at=evaluate_at, **BOUNDS[method]
    )
    assert any(end.multiplier > 0 for end in exact)


@every_path
@pytest.mark.parametrize("adaptive", ["transition", "latched"])
@pytest.mark.parametrize("measure", ["l2", "std"])
def test_adaptive_bounds_are_algorithm_3(path, measure, adaptive):
    starts, gradients = outward(SHAPES[:2], steps=60, seed=5)
    gradients[30:] = [[s.sign() for s in starts]] * 30  # inward: λ falls to zero and the bound follows
    before = {"lr": 1e-2, "reg_function": measure, "kappa_init_method": "dependent", "kappa_init_param": 1.1}
    exact = assert_equals_the_reference(path, starts, gradients, adaptive=adaptive, **before)
    assert exact[0].bound < train("reference", starts, gradients, **before)[0].bound


@st.composite
def problems(draw: st.DrawFn) -> dict:
    method = draw(st.sampled_from(sorted(BOUNDS)))
    return {
        "lr": 10 ** draw(st.floats(-3.5, -1.7)),
        "reg_function": draw(st.sampled_from(MEASURES)),
        "kappa_update": draw(st.sampled_from([0.1, 1.0, 3.0])),
        "evaluate_at": draw(st.sampled_from(["before", "after"])),
        "adaptive": draw(st.sampled_from([False, "transition", "latched"])),
        "reg_by_lr": draw(st.booleans()),
        "betas": draw(st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.8, 0.95)])),
    } | BOUNDS[method]


# Small shapes, and some near the kernels' chunk of 16,384 elements.
shapes = st.tuples(st.integers(2, 40), st.integers(1, 40)) | st.sampled_from(
    [(128, 128), (5, 3277), (1, 16_385), (3, 11_000)]
)
seeds = st.integers(0, 1000)
examples = settings(max_examples=15, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))


@but_triton_weekly(PATHS)
@examples
@given(options=problems(), shape=shapes, seed=seeds)
def test_every_kernel_solves_random_problems_like_the_reference(path, options, shape, seed):
    starts, gradients = outward([shape, (5, 3)], steps=20, seed=seed)
    assert_equals_the_reference(path, starts, gradients, **options)


@but_triton_weekly(OPTIMIZERS)
@examples
@given(options=problems(), shape=shapes, seed=seeds, maximize=st.booleans())
def test_with_amsgrad_random_problems_agree_with_float64(path, options, shape, seed, maximize):
    options |= {"amsgrad": True, "maximize": maximize}
    starts, gradients = rounded(*outward([shape, (5, 3)], steps=20, seed=seed))
    found = train(path, starts, gradients, **options)
    exact = train("eager", [s.double() for s in starts], gradients, **options)
    for ours, plain in zip(found, exact, strict=True):
        assert (ours.theta - plain.theta).abs().max() <= TOLERANCE * max(1.0, plain.theta.abs().max().item())
        assert (ours.bound is None) == (plain.bound is None)


@but_triton_weekly(OPTIMIZERS)
@examples
@given(options=problems(), shape=shapes, seed=seeds)
def test_bfloat16_steps_of_random_problems_are_within_their_roundings(path, options, shape, seed):
    starts, gradients = rounded(*outward([shape, (5, 3)], steps=1, seed=seed), torch.bfloat16)
    assert_equal_up_to_bfloat16(path, starts, gradients, **options)


@every_path
def test_matrices_larger_than_a_chunk_of_the_kernels_agree_too(path):
    starts, gradients = outward([(130, 127), (1, 1025)], steps=4, seed=1)
    for measure in MEASURES:
        assert_equals_the_reference(
            path, starts, gradients, lr=1e-2, reg_function=measure, kappa_init_method="dependent", kappa_init_param=1
        )


@functools.lru_cache(maxsize=2)  # paths follow each other, and Triton has a shape of its own
def large(measure: str, shape: tuple[int, int]) -> tuple[list, list, dict, list]:
    """Return two steps of a large matrix that sets its bound after one, and the end of the reference."""
    starts, gradients = rounded(*outward([shape], steps=2, seed=2))
    options = {"lr": 1e-3, "reg_function": measure, "kappa_init_method": "warm_start", "kappa_init_param": 1}
    return starts, gradients, options, train("reference", [s.double() for s in starts], gradients, **options)


@every_path
@pytest.mark.parametrize("measure", MEASURES)
def test_the_measure_of_a_matrix_of_four_million_elements_is_exact_to_1e_6(path, measure):
    # Triton's interpreter needs half a minute for four million elements, so it gets a quarter of a million.
    shape = (511, 513) if path == "triton" and device(path) == "cpu" else (2047, 2049)
    starts, gradients, options, exact = large(measure, shape)
    assert_equals(path, exact, starts, gradients, TOLERANCE, **options)
    assert exact[0].bound is not None


@every_path
@pytest.mark.parametrize("measure", MEASURES)
def test_a_matrix_far_above_its_bound_is_put_onto_it(path, measure):
    start = 0.2 * torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    options = {"kappa_init_method": "uniform", "kappa_init_param": 1e-3, "reg_function": measure}
    (end,) = train(path, [start], [[torch.zeros(20, 10)]], lr=1.0, **options)
    assert Reference(end.theta, ("uniform", 1e-3), measure).R() == pytest.approx(1e-3, rel=1e-5)
    assert end.multiplier == 0


@every_path
def test_a_matrix_without_a_gradient_does_not_change_and_counts_its_own_steps(path):
    starts, gradients = rounded(*outward([(4, 4), (3, 5)], steps=30, seed=2))
    some = [[step[0], step[1] if t % 3 else None] for t, step in enumerate(gradients)]
    alone = train(
        path, starts[1:], [[step[1]] for step in some if step[1] is not None], lr=1e-2, **BOUNDS["warm_start"]
    )
    together = train(path, starts, some, lr=1e-2, **BOUNDS["warm_start"])
    assert torch.allclose(together[1].theta, alone[0].theta, atol=1e-7)
    assert together[1].multiplier == pytest.approx(alone[0].multiplier, rel=1e-4)


@every_optimizer
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"maximize": True}, {"amsgrad": True, "evaluate_at": "after"}]
)
def test_below_every_bound_it_is_torch_s_adam(path, options):
    starts, gradients = rounded(*outward(SHAPES, steps=30, seed=4))
    found = train(path, starts, gradients, lr=1e-2, **NEVER, **options)
    theirs = [torch.nn.Parameter(s.clone()) for s in starts]
    adam = torch.optim.Adam(
        theirs, lr=1e-2, **{name: value for name, value in options.items() if name != "evaluate_at"}
    )
    for step in gradients:
        for p, gradient in zip(theirs, step, strict=True):
            p.grad = gradient.clone()
        adam.step()
    for ours, p in zip(found, theirs, strict=True):
        assert (ours.theta - p.detach()).abs().max() <= 1e-6
        assert ours.multiplier == 0


@every_optimizer
@pytest.mark.parametrize("measure", MEASURES)
def test_a_bfloat16_step_is_rounded_once_from_float32_arithmetic(path, measure):
    starts, gradients = rounded(*outward(SHAPES, steps=1, seed=6), torch.bfloat16)
    assert_equal_up_to_bfloat16(
        path, starts, gradients, lr=1e-2, reg_function=measure, kappa_init_method="dependent", kappa_init_param=0.9
    )


@every_optimizer
def test_a_change_made_outside_is_seen_at_the_next_step(path):
    starts, gradients = rounded(*outward(SHAPES, steps=20, seed=7))
    ours, parameters = optimizer(path, starts, lr=1e-2, **BOUNDS["warm_start"])
    plain = [Reference(s.double(), ("warm_start", 10), lr=1e-2) for s in starts]
    for t, step in enumerate(gradients):
        advance(path, ours, parameters, [step])
        for matrix, gradient in zip(plain, step, strict=True):
            matrix.step(gradient.double())
            if t == 14:
                matrix.theta *= 1.2
        if t == 14:
            with torch.no_grad():
                for p in parameters:
                    p.mul_(1.2)
    for end, matrix in zip(ends(ours, parameters), plain, strict=True):
        assert end.multiplier == pytest.approx(matrix.lam, rel=1e-4)


@every_optimizer
@pytest.mark.parametrize("method", ["warm_start", "inflection_point"])
def test_a_loaded_state_continues_with_the_same_bits(path, method):
    starts, gradients = rounded(*outward(SHAPES[:2], steps=50, seed=8))
    options = {"lr": 1e-2} | BOUNDS[method]
    undisturbed, parameters = optimizer(path, starts, **options)
    advance(path, undisturbed, parameters, gradients)
    first, halfway = optimizer(path, starts, **options)
    advance(path, first, halfway, gradients[:20])
    second, others = optimizer(path, starts, **options)
    with torch.no_grad():
        for other, p in zip(others, halfway, strict=True):
            other.copy_(p)
    second.load_state_dict(first.state_dict())
    advance(path, second, others, gradients[20:])
    for a, b in zip(ends(undisturbed, parameters), ends(second, others), strict=True):
        assert torch.equal(a.theta, b.theta)
        assert (a.multiplier, a.bound) == (b.multiplier, b.bound)


@every_optimizer
def test_placing_a_tensor_does_not_change_it(path):
    tensor = torch.arange(6.0).reshape(3, 2)
    there = placed(path, tensor)
    assert torch.equal(there.full_tensor() if path == "dtensor" else there.cpu(), tensor)
