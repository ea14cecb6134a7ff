"""Each baseline equals its formula written out."""

import math
import statistics
from itertools import pairwise

import pytest
import torch
from baselines import (
    ADAM,
    BETAS,
    EPS,
    LR,
    METHODS,
    SHAPES,
    assert_close,
    assert_equal,
    feed,
    gradients,
    small_network,
    starts,
    two_groups,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cpr.baselines import AMOS, AdamAdaDecay, AdamAWD, DecayScheduledAdamW, RescaledAdam, cosine_weight_decay
from cpr.baselines.adadecay import decay_factors
from cpr.baselines.amos import expected_scale

torch.set_num_threads(1)


class PlainAdam:
    """Compute a = m̂ / (√v̂ + eps) of every parameter, written out."""

    def __init__(self) -> None:
        self.t = 0
        self.m = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
        self.v = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]

    def __call__(self, step: list[Tensor]) -> list[Tensor]:
        self.t += 1
        self.m = [BETAS[0] * m + (1 - BETAS[0]) * g for m, g in zip(self.m, step, strict=True)]
        self.v = [BETAS[1] * v + (1 - BETAS[1]) * g**2 for v, g in zip(self.v, step, strict=True)]
        correct = 1 - BETAS[0] ** self.t, 1 - BETAS[1] ** self.t
        return [(m / correct[0]) / ((v / correct[1]).sqrt() + EPS) for m, v in zip(self.m, self.v, strict=True)]


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(math.fsum(x * x for tensor in tensors for x in tensor.flatten().tolist()))


# AdaDecay


@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_adadecay_is_its_formula_element_by_element(alpha):
    parameters, adam = starts(), PlainAdam()
    plain = [p.detach().clone() for p in parameters]
    feed(AdamAdaDecay(two_groups(parameters), weight_decay=0.5, alpha=alpha, **ADAM), parameters, gradients())
    for step in gradients():
        updates = adam(step)
        for place in (0, 1):
            sizes = [abs(g) for g in step[place].flatten().tolist()]
            mean, std = statistics.fmean(sizes), statistics.pstdev(sizes)
            factors = torch.tensor(
                [2 / (1 + math.exp(-alpha * (size - mean) / std)) for size in sizes], dtype=torch.float64
            )
            plain[place] = plain[place] - LR * updates[place] - LR * 0.5 * factors.view(SHAPES[place]) * plain[place]
        plain[2] = plain[2] - LR * updates[2]
    assert_close(parameters, plain)


def test_adadecay_with_alpha_0_is_adamw_to_the_bit():
    ours, theirs = starts(), starts()
    feed(AdamAdaDecay(two_groups(ours), weight_decay=0.5, alpha=0.0, **ADAM), ours, gradients())
    groups = [group | {"weight_decay": 0.5 if group["regularize"] else 0.0} for group in two_groups(theirs)]
    feed(torch.optim.AdamW(groups, **ADAM), theirs, gradients())
    assert_equal(ours, theirs)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0, 8), st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_decay_factors_lie_between_0_and_2_and_rise_with_the_size_of_the_gradient(values, alpha, scale):
    gradient = torch.tensor(values, dtype=torch.float64)
    factors = decay_factors(gradient, alpha)
    assert (0 <= factors).all() and (factors <= 2).all()
    ordered = factors[gradient.abs().argsort(stable=True)]
    assert (
        ordered.diff() >= -1e-15
    ).all()  # equal gradients may differ by a rounding, since vector and scalar code compute the exponential
    assert torch.equal(decay_factors(-gradient, alpha), factors)
    if gradient.abs().std(correction=0) > 1e-4:
        assert torch.allclose(decay_factors(scale * gradient, alpha), factors, atol=1e-6)


def test_gradients_of_equal_size_and_zero_gradients_decay_like_adamw():
    for gradient in (torch.tensor([2.0, -2.0, 2.0]), torch.zeros(3), torch.tensor([5.0])):
        assert torch.equal(decay_factors(gradient, 4.0), torch.ones_like(gradient))


# AWD


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_awd_is_its_formula(scope, coupled):
    parameters, adam, rate = starts(), PlainAdam(), [0.0, 0.0]
    plain = [p.detach().clone() for p in parameters]
    optimizer = AdamAWD(two_groups(parameters), weight_decay=0.2, scope=scope, coupled=coupled, **ADAM)
    feed(optimizer, parameters, gradients())
    for step in gradients():
        sets = [[0, 1], [0, 1]] if scope == "global" else [[0], [1]]
        for place, members in enumerate(sets):
            new = 0.2 * norm([step[i] for i in members]) / norm([plain[i] for i in members])
            rate[place] = 0.1 * rate[place] + 0.9 * new
        seen = [step[i] + rate[i] * plain[i] if coupled and i < 2 else step[i] for i in range(3)]
        updates = adam(seen)
        for i in range(3):
            decay = rate[i] if i < 2 and not coupled else 0.0
            plain[i] = plain[i] - LR * updates[i] - LR * decay * plain[i]
    assert_close(parameters, plain)
    mean_decay = [value.item() for value in optimizer.param_groups[0]["mean_decay"]]
    assert mean_decay == pytest.approx(rate if scope == "tensor" else rate[:1], rel=1e-12)
    assert min(mean_decay) > 0.1


def test_the_global_norms_of_awd_cover_all_regularized_groups():
    together, apart = starts(), starts()
    one = AdamAWD(two_groups(together), weight_decay=0.2, **ADAM)
    three = AdamAWD([{"params": [p], "regularize": i < 2} for i, p in enumerate(apart)], weight_decay=0.2, **ADAM)
    feed(one, together, gradients(50))
    feed(three, apart, gradients(50))
    assert_equal(together, apart)


def test_coupled_awd_restores_the_gradients():
    parameters = starts()
    optimizer = METHODS["awd coupled"](two_groups(parameters))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    received = [parameter.grad for parameter in parameters]
    optimizer.step()
    assert all(p.grad is gradient and (gradient == 1).all() for p, gradient in zip(parameters, received, strict=True))


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_awd_does_not_decay_weights_that_are_zero(scope):
    weight = nn.Parameter(torch.zeros(3, 2))
    optimizer = AdamAWD([{"params": [weight], "regularize": True}], scope=scope, lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.param_groups[0]["mean_decay"][0] == 0
    assert torch.allclose(weight, torch.full((3, 2), -0.1))


# AMOS


@pytest.mark.parametrize("legacy_sign", [False, True])
def test_amos_is_its_formula(legacy_sign):
    parameters, extra = starts(), 1e-3
    theta = [p.detach().clone() for p in parameters]
    optimizer = AMOS(two_groups(parameters), lr=0.05, beta=0.99, zeta=0.5, extra_l2=extra, legacy_sign=legacy_sign)
    feed(optimizer, parameters, gradients())
    eta = [math.sqrt(2 / 5), math.sqrt(1 / (3 * 2 * 2)), 0.5]
    v, b = [0.0] * 3, [0.0] * 3
    for t, step in enumerate(gradients(), start=1):
        for i, g in enumerate(step):
            q = statistics.fmean(x * x for x in g.flatten().tolist())
            v[i] = 0.99 * v[i] + 0.01 * q
            v_hat = v[i] / (1 - 0.99**t)
            c = (1 + 0.5 * math.sqrt(0.05) * b[i]) ** -0.5
            d = 1 / (1 + 0.5 * math.sqrt(0.05 * eta[i]) * b[i])
            gamma = c * 0.05**2 * q / v_hat
            pull = (0.5 * (gamma - extra) if legacy_sign else 0.5 * gamma + extra) if i < 2 else 0.5 * gamma
            theta[i] = theta[i] - d * (0.05 * eta[i] * g / math.sqrt(v_hat) + pull * theta[i])
            b[i] = b[i] + gamma * (1 + b[i])
    assert_close(parameters, theta)
    assert [optimizer.state[p]["fading"].item() for p in parameters] == pytest.approx(b, rel=1e-11)
    assert min(b) > 0.3


@pytest.mark.parametrize("legacy_sign, factor", [(False, 0.99), (True, 1.005)])
def test_without_gradients_extra_l2_of_amos_shrinks_weights_and_its_legacy_sign_grows_them(legacy_sign, factor):
    parameters = starts()
    first = [p.detach().clone() for p in parameters]
    optimizer = AMOS(two_groups(parameters), extra_l2=0.01, legacy_sign=legacy_sign)
    feed(optimizer, parameters, [[torch.zeros(shape) for shape in SHAPES]] * 10)
    assert_close(parameters, [first[0] * factor**10, first[1] * factor**10, first[2]])


@pytest.mark.parametrize(
    "module, scale",
    [
        (nn.Linear(8, 3), math.sqrt(2 / 8)),
        (nn.Conv2d(4, 7, kernel_size=3), math.sqrt(1 / 36)),
        (nn.Conv1d(6, 2, kernel_size=5, groups=2), math.sqrt(1 / 15)),
        (nn.LayerNorm(5), 0.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_expected_scale_uses_the_fan_in_including_the_kernel(module, scale):
    assert expected_scale(module.weight) == scale


def test_amos_changes_no_parameter_at_learning_rate_0():
    parameters, first = starts(), starts()
    feed(AMOS(two_groups(parameters), lr=0.0), parameters, gradients(3))
    assert_equal(parameters, first)


# The weight-decay schedule


@pytest.mark.parametrize(
    "step, decay", [(0, 0.2), (25, 0.2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)), (50, 0.11), (100, 0.02), (150, 0.02)]
)
def test_the_scheduled_decay_falls_along_a_cosine_to_its_final_factor_and_stays_there(step, decay):
    assert cosine_weight_decay(step, 100, 0.2, 0.1) == pytest.approx(decay, rel=1e-14)


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 100), st.data())
def test_the_scheduled_decay_is_monotonic(total_steps, weight_decay, final_factor, data):
    steps = sorted(data.draw(st.lists(st.integers(0, total_steps), min_size=2, max_size=5)))
    decays = [cosine_weight_decay(step, total_steps, weight_decay, final_factor) for step in [0, *steps, total_steps]]
    assert (decays[0], decays[-1]) == (weight_decay, pytest.approx(weight_decay * final_factor, rel=1e-12))
    slack = 1e-14 * max(decays)
    for earlier, later in pairwise(decays):
        assert later <= earlier + slack if final_factor <= 1 else later >= earlier - slack


@pytest.mark.parametrize("final_factor", [0.1, 100, 1])
def test_scheduled_adamw_equals_torch_s_adamw_with_the_decay_set_before_every_step(final_factor):
    ours, theirs = starts(torch.float32), starts(torch.float32)
    feed(
        DecayScheduledAdamW(two_groups(ours), 150, weight_decay=0.1, final_factor=final_factor, **ADAM),
        ours,
        gradients(),
    )
    reference = torch.optim.AdamW(two_groups(theirs), **ADAM)
    reference.param_groups[1]["weight_decay"] = 0.0
    for t, step in enumerate(gradients()):
        progress = (1 + math.cos(math.pi * min(t, 150) / 150)) / 2
        reference.param_groups[0]["weight_decay"] = 0.1 * (final_factor + (1 - final_factor) * progress)
        feed(reference, theirs, [step])
    assert_equal(ours, theirs)


# Rescaling


@pytest.mark.parametrize("include_norm", [False, True])
def test_rescaling_keeps_the_joint_norm_of_the_weights_and_of_norm_layers_with_include_norm(include_norm):
    model, reference = small_network(), small_network()
    optimizer = RescaledAdam(model, factor=0.8, include_norm=include_norm, **ADAM)
    names = ["0.weight", "3.weight", *(["1.weight"] if include_norm else [])]
    chosen = [reference.get_parameter(name) for name in names]
    with torch.no_grad():
        for weight in chosen:
            weight.mul_(0.8)
    target = norm(chosen)
    adam = torch.optim.Adam(reference.parameters(), **ADAM)
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for _ in range(20):
        for network, stepper in ((model, optimizer), (reference, adam)):
            stepper.zero_grad()
            network(inputs).square().sum().backward()
            stepper.step()
        with torch.no_grad():
            size = norm(chosen)
            for weight in chosen:
                weight.mul_(target / size)
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12), name
    assert norm([model.get_parameter(name) for name in names]) == pytest.approx(target, rel=1e-12)
