"""Each newer baseline equals its formula written out, under a learning rate that changes."""

import pytest
import torch
from baselines import ADAM, BETAS, EPS, feed, gradients, small_network, starts, two_groups
from torch import Tensor

from cpr.baselines import AdamC, AdamHD, CautiousAdamW

torch.set_num_threads(1)

DECAY, DELTA, LR_MAX = 0.5, 0.2, 0.02
RATES = [LR_MAX * (1 - step / 40) for step in range(30)]
DECAYS = {
    "cautious": lambda theta, u, lr: lr * DECAY * (u * theta >= 0) * theta,
    "corrected": lambda theta, u, lr: lr**2 / LR_MAX * DECAY * theta,
    "huber": lambda theta, u, lr: lr * DECAY * theta.clamp(-DELTA, DELTA),
}
BUILD = {
    "cautious": lambda groups: CautiousAdamW(groups, weight_decay=DECAY, **ADAM),
    "corrected": lambda groups: AdamC(groups, weight_decay=DECAY, lr_max=LR_MAX, **ADAM),
    "huber": lambda groups: AdamHD(groups, weight_decay=DECAY, delta=DELTA, **ADAM),
}


def plain(method: str) -> list[Tensor]:
    thetas = [p.detach() for p in starts(torch.float32)]
    m, v = [torch.zeros_like(p) for p in thetas], [torch.zeros_like(p) for p in thetas]
    for t, (lr, step) in enumerate(zip(RATES, gradients(30), strict=True), start=1):
        for i in (0, 2):  # 1 has no gradient
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * step[i].float()
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * step[i].float() ** 2
            u = (m[i] / (1 - BETAS[0] ** t)) / ((v[i] / (1 - BETAS[1] ** t)).sqrt() + EPS)
            decay = DECAYS[method](thetas[i], u, lr) if i == 0 else 0
            thetas[i] = thetas[i] - lr * u - decay
    return thetas


@pytest.mark.parametrize("method", BUILD)
def test_it_is_its_formula(method):
    parameters = starts(torch.float32)
    optimizer = BUILD[method](two_groups(parameters))
    for lr, step in zip(RATES, gradients(30), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for i in (0, 2):
            parameters[i].grad = step[i].float()
        optimizer.step()
    for parameter, expected in zip(parameters, plain(method), strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [AdamC, lambda groups, **rest: AdamHD(groups, delta=1e6, **rest)])
def test_at_a_constant_lr_and_without_a_threshold_it_is_adamw(build):
    ours, theirs = starts(), starts()
    feed(build(two_groups(ours), weight_decay=DECAY, **ADAM), ours, gradients())
    groups = [group | {"weight_decay": DECAY if group["regularize"] else 0.0} for group in two_groups(theirs)]
    feed(torch.optim.AdamW(groups, **ADAM), theirs, gradients())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_cautious_decay_leaves_out_elements_that_adam_moves_away_from_0():
    decayed, free = starts(), starts()
    start = [p.detach().clone() for p in free]
    feed(CautiousAdamW(two_groups(decayed), weight_decay=DECAY, **ADAM), decayed, gradients(1))
    feed(torch.optim.Adam(free, **ADAM), free, gradients(1))
    for a, b, theta, gradient in zip(decayed[:2], free, start, gradients(1)[0], strict=False):
        assert torch.equal(a == b, gradient * theta < 0)


def test_the_output_layer_is_not_corrected():
    model = small_network()
    optimizer = AdamC(model, output=model[3])
    plain_ones = [p for group in optimizer.param_groups if not group["corrected"] for p in group["params"]]
    assert len(plain_ones) == 1 and plain_ones[0] is model[3].weight
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_an_output_layer_that_is_not_the_model_s_is_refused():
    with pytest.raises(ValueError, match="has no regularized parameter of the model"):
        AdamC(small_network(), output=small_network()[3])
    with pytest.raises(ValueError, match="output= needs a model"):
        AdamC(two_groups(starts()), output=small_network())


def test_cautious_decay_follows_the_update_of_a_group_that_maximizes():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))
    groups = [{"params": [weight], "regularize": True, "maximize": True}]
    optimizer = CautiousAdamW(groups, lr=0.1, weight_decay=1.0, eps=0.0)
    weight.grad = torch.tensor([[1.0, 1.0]])  # both elements grow by lr, which shrinks only the second
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.1, -0.8]]))
