"""Hyperball against its formula written out, around torch's optimizers."""

import copy
import pickle

import pytest
import torch
from baselines import ADAM, BETAS, EPS, assert_equal, feed, gradients, small_network, starts, two_groups
from timm.optim import AdamP, Lookahead
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from cpr import CPR, AdamCPR, regularized_groups
from cpr.baselines import Hyperball

torch.set_num_threads(1)

RATIO = 4.0
RATES = [0.01 * min(step / 4, 1 - step / 30) for step in range(20)]  # the first is 0
KINDS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def norm(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor.detach().double()).item()


def written_out(update, rates: list[float], given: list[list[Tensor]]) -> list[Tensor]:
    """Return θ after some steps. `update(i, t, g)` is u of parameter i in step t."""
    thetas = [p.detach() for p in starts(torch.float32)]
    radii = [theta.norm() for theta in thetas]
    for t, (lr, step) in enumerate(zip(rates, given, strict=True), start=1):
        for i, gradient in enumerate(step):
            u = update(i, t, gradient.float())
            if i == 2:  # not regularized
                thetas[i] = thetas[i] - lr * u
            else:
                moved = thetas[i] - lr * RATIO * radii[i] * u / u.norm()
                thetas[i] = radii[i] * moved / moved.norm()
    return thetas


def adam_update():
    m, v = [torch.zeros_like(p) for p in starts(torch.float32)], [torch.zeros_like(p) for p in starts(torch.float32)]

    def update(i: int, t: int, gradient: Tensor) -> Tensor:
        m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * gradient
        v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * gradient**2
        return (m[i] / (1 - BETAS[0] ** t)) / ((v[i] / (1 - BETAS[1] ** t)).sqrt() + EPS)

    return update


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rates: list[float], sign: int = 1) -> None:
    for lr, step in zip(rates, gradients(len(rates)), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        feed(optimizer, parameters, [[sign * gradient for gradient in step]])


@pytest.mark.parametrize("kind", KINDS)
def test_around_adam_it_is_the_formula_written_out(kind):
    parameters = starts(torch.float32)
    train(Hyperball(torch.optim.Adam(two_groups(parameters), **KINDS[kind], **ADAM), RATIO), parameters, RATES)
    for parameter, expected in zip(parameters, written_out(adam_update(), RATES, gradients(20)), strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_a_group_that_maximizes_goes_the_other_way():
    parameters = starts(torch.float32)
    adam = torch.optim.Adam(two_groups(parameters), maximize=True, **ADAM)
    train(Hyperball(adam, RATIO), parameters, RATES, sign=-1)
    for parameter, expected in zip(parameters, written_out(adam_update(), RATES, gradients(20)), strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_around_muon_it_is_the_formula_written_out():
    ours, alone = starts(torch.float32)[0], starts(torch.float32)[0]
    groups = [{"params": [ours], "regularize": True}]
    optimizer = Hyperball(torch.optim.Muon(groups, lr=0.01, weight_decay=0), RATIO)
    muon = torch.optim.Muon([alone], lr=1.0, weight_decay=0)
    theta, radius = ours.detach().clone(), norm(ours)
    for lr, (gradient, *_) in zip(RATES, gradients(20), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        feed(optimizer, [ours], [[gradient]])
        before = alone.detach().clone()
        feed(muon, [alone], [[gradient]])
        u = before - alone.detach()
        moved = theta - lr * RATIO * radius * u / u.norm()
        theta = radius * moved / moved.norm()
    torch.testing.assert_close(ours.detach(), theta, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 2**-8)])
def test_every_matrix_keeps_its_norm_and_turns(dtype, close):
    parameters, first = starts(dtype), starts(dtype)
    optimizer = Hyperball(torch.optim.Adam(two_groups(parameters), **ADAM), RATIO)
    for step in gradients(200):
        feed(optimizer, parameters, [step])
        for p, start in zip(parameters[:2], first, strict=False):
            assert norm(p) == pytest.approx(norm(start), rel=close)
    assert all(norm(p.detach() - start) > 0.5 * norm(start) for p, start in zip(parameters, first, strict=True))


def test_a_group_s_own_ratio_overrides_the_optimizer_s():
    theta, other = starts()[0], starts()[0]
    one = Hyperball(torch.optim.SGD([{"params": [theta], "regularize": True, "lr_ratio": 0.5}], lr=0.1), RATIO)
    two = Hyperball(torch.optim.SGD([{"params": [other], "regularize": True}], lr=0.05))
    for step in gradients(5):
        feed(one, [theta], [step[:1]])
        feed(two, [other], [step[:1]])
    torch.testing.assert_close(theta, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_continues_to_the_bit(copied):
    parameters = starts(torch.bfloat16)
    optimizer = Hyperball(torch.optim.Adam(two_groups(parameters), **ADAM), RATIO)
    feed(optimizer, parameters, gradients(10))
    others, twin = copied((parameters, optimizer))
    for one, these in ((optimizer, parameters), (twin, others)):
        feed(one, these, gradients(20)[10:])
    assert_equal(parameters, others)
    assert twin.state[others[0]]["radius"] == optimizer.state[parameters[0]]["radius"]


def test_the_state_of_a_plain_adam_is_taken_and_the_radius_is_that_of_the_present_matrices():
    parameters, radii = starts(), []
    adam = torch.optim.Adam(two_groups(parameters), **ADAM)
    feed(adam, parameters, gradients(5))
    state, radii = copy.deepcopy(adam.state_dict()), [norm(p) for p in parameters[:2]]
    for group in state["param_groups"]:
        del group["regularize"]
    optimizer = Hyperball(torch.optim.Adam(two_groups(parameters), **ADAM), RATIO)
    optimizer.load_state_dict(state)
    feed(optimizer, parameters, gradients(3))
    assert [norm(p) for p in parameters[:2]] == pytest.approx(radii)
    assert optimizer.state[parameters[0]]["step"] == 8


def test_torch_s_distributed_checkpoint_continues_to_the_bit():
    def built() -> tuple[nn.Module, Hyperball]:
        model = small_network()
        return model, Hyperball(torch.optim.Adam(regularized_groups(model), **ADAM), RATIO)

    def train_on(model: nn.Module, optimizer: Hyperball) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.eye(4, dtype=torch.float64)).square().sum().backward()
            optimizer.step()

    (model, optimizer), (other, continued) = built(), built()
    train_on(model, optimizer)
    state, weights = copy.deepcopy((get_optimizer_state_dict(model, optimizer), model.state_dict()))
    train_on(model, optimizer)
    other.load_state_dict(weights)
    set_optimizer_state_dict(other, continued, state)
    train_on(other, continued)
    assert_equal(list(model.parameters()), list(other.parameters()))


def test_zero_gradients_leave_every_bit_and_nan_shows():
    parameters, first = starts(torch.float32), starts(torch.float32)
    optimizer = Hyperball(torch.optim.SGD(two_groups(parameters), lr=0.1))
    feed(optimizer, parameters, [[torch.zeros_like(p) for p in parameters]])
    assert_equal(parameters, first)
    feed(optimizer, parameters, [[torch.full_like(p, torch.nan) for p in parameters]])
    assert all(p.isnan().all() for p in parameters)


def test_matrices_are_put_back_if_the_wrapped_step_fails():
    parameters, first = starts(), starts()
    optimizer = Hyperball(torch.optim.Adam(two_groups(parameters)))
    for p in parameters:
        p.grad = torch.ones_like(p).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step()
    assert_equal(parameters, first)


def test_sparse_gradients_step_as_dense_ones():
    sparse, dense = starts()[0], starts()[0]
    for p, gradient in ((sparse, gradients(1)[0][0].to_sparse()), (dense, gradients(1)[0][0])):
        optimizer = Hyperball(torch.optim.SGD([{"params": [p], "regularize": True}], lr=0.1))
        p.grad = gradient
        optimizer.step()
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)


def test_a_gradient_scaler_skips_a_step_that_overflows_and_unscales_the_others():
    parameters, plain = starts(torch.float32), starts(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaled, other = (
        Hyperball(torch.optim.Adam(two_groups(these), fused=True, **ADAM)) for these in (parameters, plain)
    )
    for step in gradients(3):
        for factor in (torch.inf, 1.0):
            scaler.scale(torch.ones(()))
            for p, gradient in zip(parameters, step, strict=True):
                p.grad = gradient.float() * factor * scaler.get_scale()
            scaler.step(scaled)
            scaler.update()
        feed(other, plain, [step])
    assert_equal(parameters, plain)


BUILD = {
    "weight_decay=0.1": lambda p: torch.optim.AdamW([{"params": [p], "regularize": True}], weight_decay=0.1),
    "update of Adafactor depends": lambda p: torch.optim.Adafactor([{"params": [p], "regularize": True}]),
    "update of ASGD depends": lambda p: torch.optim.ASGD([{"params": [p], "regularize": True}]),
    "update of AdamP depends": lambda p: AdamP([{"params": [p], "regularize": True}]),
    "Lookahead wraps an optimizer": lambda p: Lookahead(torch.optim.SGD([{"params": [p], "regularize": True}])),
    "can't step a small dense matrix": lambda p: torch.optim.SparseAdam([{"params": [p], "regularize": True}]),
    "bounds its matrices already": lambda p: CPR(torch.optim.SGD([{"params": [p], "regularize": True}])),
    "AdamCPR bounds": lambda p: AdamCPR([{"params": [p], "regularize": True}]),
    "evaluates its closure several times": lambda p: torch.optim.LBFGS([p]),
    "no parameter is regularized": lambda p: torch.optim.Adam([p]),
    "regularize='yes'": lambda p: torch.optim.Adam([{"params": [p], "regularize": "yes"}]),
    "lr_ratio=0": lambda p: torch.optim.Adam([{"params": [p], "regularize": True, "lr_ratio": 0}]),
}


@pytest.mark.parametrize("text", BUILD)
def test_an_optimizer_that_it_can_t_wrap_is_refused(text):
    with pytest.raises(ValueError, match=text):
        Hyperball(BUILD[text](starts()[0]))


@pytest.mark.parametrize("lr_ratio", [0.0, -1.0, float("inf"), float("nan"), "10"])
def test_a_ratio_out_of_its_range_is_refused(lr_ratio):
    with pytest.raises(ValueError, match=f"lr_ratio={lr_ratio!r}"):
        Hyperball(torch.optim.Adam(two_groups(starts())), lr_ratio)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="not Linear"):
        Hyperball(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "matrix, text",
    [
        (torch.zeros(3, 2), "layer.weight of shape (3, 2) is 0"),
        (torch.ones(3, 2, dtype=torch.float16), "is float16"),
        (torch.ones(3, 2, dtype=torch.complex64), "is complex"),
    ],
)
def test_a_matrix_that_it_can_t_keep_on_a_sphere_is_refused_by_name(matrix, text):
    groups = [{"params": [("layer.weight", nn.Parameter(matrix))], "regularize": True}]
    with pytest.raises(ValueError) as error:
        Hyperball(torch.optim.Adam(groups))
    assert text in str(error.value) and "layer.weight" in str(error.value)


def test_a_matrix_that_becomes_0_before_the_first_step_is_refused_and_nothing_moves():
    parameters = starts()
    optimizer = Hyperball(torch.optim.Adam(two_groups(parameters)))
    parameters[1].data.zero_()
    with pytest.raises(ValueError, match=r"parameter 1 of group 0 .* is 0"):
        feed(optimizer, parameters, gradients(1))
    assert_equal(parameters[::2], starts()[::2])


def test_a_refused_group_is_not_kept():
    optimizer = Hyperball(torch.optim.Adam(two_groups(starts())))
    with pytest.raises(ValueError, match="is 0"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], "regularize": True})
    assert len(optimizer.param_groups) == len(optimizer.optimizer.param_groups) == 2


def test_a_weight_decay_set_by_a_schedule_is_refused():
    parameters = starts()
    optimizer = Hyperball(torch.optim.Adam(two_groups(parameters)))
    optimizer.param_groups[0]["weight_decay"] = 0.25
    with pytest.raises(ValueError, match=r"weight_decay=0\.25"):
        feed(optimizer, parameters, gradients(1))
