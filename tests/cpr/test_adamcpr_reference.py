"""The fast AdamCPR against Algorithms 1 to 3 written plainly, and against torch's Adam and AdamW."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cpr import CPR, AdamCPR
from cpr.reference import Reference

torch.set_num_threads(1)

MEASURES = ("l2", "l1", "huber", "std")
BOUNDS = ("uniform", "dependent", "warm_start", "inflection_point")
STEPS = 300
TOLERANCE = 1e-12


def compare(
    measure: str,
    bound: tuple[str, float],
    seed: int,
    *,
    shape: tuple[int, ...] = (6, 5),
    lr: float = 3e-3,
    mu: float = 1.0,
    scale: float = 0.05,
    **options,
) -> Reference:
    """Train one matrix with both optimizers and the same noisy gradients. Fail if θ, λ or κ differ.

    θ is compared relative to max |θ| at the start or the end, and to μ, since λ adds up R's roundings
    times μ. λ is compared relative to its largest value or increment so far.

    """
    first, *rest = gradients(shape, seed)
    start = scale * first
    method, parameter = bound
    inflection = method == "inflection_point"
    fast = torch.nn.Parameter(start.clone())
    optimizer = AdamCPR(
        [{"params": [fast], "regularize": True}],
        lr=lr,
        kappa_init_method=method,
        kappa_init_param=None if inflection else parameter,
        reg_function=measure,
        reg_step_size=int(parameter) if inflection else 200,
        kappa_update=mu,
        **options,
    )
    plain = Reference(start.clone(), bound, measure, lr=lr, mu=mu, **options)
    for g in rest:
        fast.grad = g.clone()
        optimizer.step()
        plain.step(g)
    state = optimizer.state[fast]
    largest = max(plain.theta.abs().max().item(), start.abs().max().item())
    assert (fast.detach() - plain.theta).abs().max() <= TOLERANCE * largest * max(1, mu)
    size = max(max(lam, mu * R) for R, _, lam in plain.history)
    assert abs(state["lagmul"].item() - plain.lam) <= TOLERANCE * size
    assert state["kappa_set"].item() == (plain.kappa is not None)
    if plain.kappa is not None:
        assert state["kappa"].item() == pytest.approx(plain.kappa, rel=TOLERANCE)
    return plain


def gradients(shape: tuple[int, ...], seed: int) -> Iterator[torch.Tensor]:
    """Return θ_0 at scale 1, and noisy gradients that push it outward with falling strength."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    yield start
    for t in range(STEPS):
        yield torch.randn(shape, generator=generator, dtype=torch.float64) - 1.5 * 0.99**t * start.sign()


def chaotic(measure, bound, seed, shape, lr, mu, scale, **options) -> bool:
    """Tell whether the reference itself ends elsewhere after a start that differs by a rounding or two.

    A few elements under a large μ can do that."""
    first, *rest = gradients(shape, seed)
    ends = []
    for rounding in (0, 1e-15, -1e-15, 5e-15):
        plain = Reference(scale * first * (1 + rounding), bound, measure, lr=lr, mu=mu, **options)
        for g in rest:
            plain.step(g)
        ends.append(plain.theta)
    return any(bool((ends[0] - end).abs().max() > 1e-13 * ends[0].abs().max()) for end in ends[1:])


def usual(method: str, measure: str) -> tuple[str, float]:
    """Return a bound that becomes active in the problem of `compare`."""
    uniform = 0.01 if measure in ("l2", "huber") else 0.1
    return method, {"uniform": uniform, "dependent": 1.1, "warm_start": 20, "inflection_point": 25}[method]


@pytest.mark.parametrize("adaptive", [False, "transition", "latched"])
@pytest.mark.parametrize("evaluate_at", ["before", "after"])
@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("measure", MEASURES)
def test_it_equals_the_reference_when_the_constraint_acts(measure, method, evaluate_at, adaptive):
    plain = compare(measure, usual(method, measure), seed=7, evaluate_at=evaluate_at, adaptive=adaptive)
    assert plain.kappa is not None
    assert max(lam for _, _, lam in plain.history) > 0


@st.composite
def problems(draw: st.DrawFn) -> dict:
    method = draw(st.sampled_from(BOUNDS))
    parameter = {
        "uniform": st.floats(1e-3, 0.3),
        "dependent": st.floats(0.5, 3),
        "warm_start": st.integers(0, 320),
        "inflection_point": st.integers(1, 70),
    }[method]
    return {
        "bound": (method, draw(parameter)),
        "seed": draw(st.integers(0, 10_000)),
        "shape": draw(st.sampled_from([(8,), (5, 1), (6, 5), (2, 3, 4), (2, 2, 3, 3)])),
        "lr": 10 ** draw(st.floats(-4, -1.5)),
        "mu": 10 ** draw(st.floats(-2, 1)),
        "scale": draw(st.sampled_from([0.05, 0.5, 2.0])),
        "evaluate_at": draw(st.sampled_from(["before", "after"])),
        "adaptive": draw(st.sampled_from([False, "transition", "latched"])),
        "reg_by_lr": draw(st.booleans()),
    }


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(problem=problems())
def test_float64_equals_the_reference(measure, problem):
    assume(not chaotic(measure, **problem))
    compare(measure, **problem)


@pytest.mark.parametrize("measure", MEASURES)
def test_without_the_safeguard_it_equals_the_reference(measure):
    compare(measure, ("dependent", 1.1), seed=7, safeguard=False)


def test_a_pull_scaled_by_the_learning_rate_equals_the_reference():
    plain = compare("l2", ("dependent", 1.1), seed=7, reg_by_lr=True, lr=0.03)
    assert plain.lam > 0


@pytest.mark.parametrize("adaptive", ["transition", "latched"])
def test_adaptive_bounds_get_lower_in_the_compared_problems(adaptive):
    kappas = [kappa for _, kappa, _ in compare("l2", ("dependent", 1.1), seed=7, adaptive=adaptive).history]
    assert kappas[-1] < kappas[0]


def test_the_constraint_acts_in_the_compared_problems():
    plain = compare("l2", ("warm_start", 20), seed=1)
    assert plain.kappa is not None and max(lam for _, _, lam in plain.history) > 0


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "parameter"), [("uniform", 100.0), ("warm_start", 50), ("inflection_point", None)])
def test_with_a_zero_multiplier_it_is_adam_to_the_bit(amsgrad, maximize, dtype, method, parameter):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.Parameter(torch.ones(4, 3, dtype=dtype)) for _ in range(2))
    group = [{"params": [a], "regularize": True}]
    same = {"lr": 1e-3, "betas": (0.8, 0.99), "eps": 1e-6, "amsgrad": amsgrad, "maximize": maximize}
    ours = AdamCPR(group, kappa_init_method=method, kappa_init_param=parameter, kernel="eager", **same)
    theirs = torch.optim.Adam([b], fused=True, **same)
    for _ in range(50):
        a.grad = torch.randn(4, 3, generator=generator, dtype=dtype)
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(a, b)
    assert ours.state[a]["lagmul"] == 0


def test_a_group_that_is_not_regularized_is_adam_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    a, b, other = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(3))
    groups = [{"params": [other], "regularize": True}, {"params": [a], "regularize": False}]
    ours = AdamCPR(groups, lr=1e-3, kappa_init_method="uniform", kappa_init_param=1e-6, kernel="eager")
    theirs = torch.optim.Adam([b], lr=1e-3, fused=True)
    for _ in range(50):
        a.grad = torch.randn(4, 3, generator=generator)
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(a, b)


def test_an_l2_step_evaluated_before_is_adamw_s_with_decay_2_lambda_over_lr():
    generator = torch.Generator().manual_seed(0)
    lr, kappa = 1e-2, 0.02
    start = 0.2 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    a, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours = AdamCPR([{"params": [a], "regularize": True}], lr=lr, kappa_init_method="uniform", kappa_init_param=kappa)
    theirs = torch.optim.AdamW([b], lr=lr)
    lam, acted = 0.0, 0
    for _ in range(200):
        a.grad = torch.randn(6, 5, generator=generator, dtype=torch.float64) - start.sign()
        b.grad = a.grad.clone()
        lam = max(0.0, lam + b.detach().square().mean().item() - kappa)
        acted += lam > 0
        theirs.param_groups[0]["weight_decay"] = 2 * lam / lr
        ours.step()
        theirs.step()
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()
    assert acted > 50


def test_the_wrapper_around_adam_equals_adamcpr():
    torch.manual_seed(0)
    start = 0.1 * torch.randn(5, 4, dtype=torch.float64)
    a, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    arguments = {"kappa_init_method": "warm_start", "kappa_init_param": 10}
    ours = AdamCPR([{"params": [a], "regularize": True}], lr=1e-2, **arguments)
    wrapped = CPR(torch.optim.Adam([{"params": [b], "regularize": True}], lr=1e-2, fused=True), **arguments)
    for _ in range(100):
        a.grad = torch.randn(5, 4, dtype=torch.float64) - start.sign()
        b.grad = a.grad.clone()
        ours.step()
        wrapped.step()
    assert torch.equal(a, b)
    assert torch.equal(ours.state[a]["lagmul"], wrapped.state[b]["lagmul"])


def shown(values: list[float], **options) -> tuple[AdamCPR, torch.nn.Parameter]:
    """Return an optimizer that has seen these values of R, and its matrix.

    The l1 measure of a constant matrix is the constant, and lr = 0 keeps it."""
    theta = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
    optimizer = AdamCPR([{"params": [theta], "regularize": True}], lr=1.0, reg_function="l1", **options)
    for value in values:
        theta.data.fill_(value)
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
    return optimizer, theta


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], None),  # growth never falls
        ([1, 2, 4, 7, 11, 16, 22, 29], None),
        ([1, 4, 6, 7, 9, 12], 7),  # the third sample grew less already, but the fourth is the first that decides
        ([1, 2, 4, 8, 15, 21, 28], 21),
        ([1, 2, 3, 3, 2, 1], 3),
        ([1, 2, 3, 0, 5, 6], 6),  # zero can't be a bound
    ],
)
def test_the_inflection_point_is_the_first_sample_from_the_fourth_on_that_grew_less_than_the_one_before(
    samples, expected
):
    values = [1.0, *(float(sample) for sample in samples for _ in range(3))]  # each held for an interval of three steps
    optimizer, theta = shown(values, kappa_init_method="inflection_point", reg_step_size=3)
    state = optimizer.state[theta]
    assert (state["kappa"].item() if state["kappa_set"] else None) == expected


def test_the_inflection_point_is_smoothed_by_a_moving_average_from_the_first_value_on():
    values = [1 + 0.01 * t**2 for t in range(13)]
    optimizer, theta = shown(values, kappa_init_method="inflection_point", reg_step_size=4, reg_ema_decay=0.8)
    average = values[0]
    for value in values[1:]:
        average = 0.8 * average + 0.2 * value
    assert optimizer.state[theta]["sample"].item() == pytest.approx(average, rel=1e-13)


def test_a_latched_bound_is_not_raised_by_a_matrix_that_is_suddenly_too_large():
    options = {"kappa_init_method": "uniform", "kappa_init_param": 1.0, "adaptive": "latched"}
    optimizer, theta = shown([1.1, 0.5, 0.5, 50.0], **options)
    assert optimizer.state[theta]["kappa"] == 0.5


def test_a_transition_bound_follows_r_once_and_a_latched_one_at_every_step():
    options = {"kappa_init_method": "uniform", "kappa_init_param": 1.0}
    kappas = {}
    for adaptive in (False, "transition", "latched"):
        optimizer, theta = shown([1.1, 0.75, 0.5, 0.25], adaptive=adaptive, **options)
        kappas[adaptive] = optimizer.state[theta]["kappa"].item()
    assert kappas == {False: 1.0, "transition": 0.75, "latched": 0.25}
