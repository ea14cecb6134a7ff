"""CPR around torch's own optimizers."""

import copy
import pickle

import pytest
import torch

from cpr import CPR, AdamCPR
from cpr.measures import MEASURES

torch.set_num_threads(1)

WS = {"kappa_init_method": "warm_start", "kappa_init_param": 10}
TIGHT = {"kappa_init_method": "uniform", "kappa_init_param": 1e-3}


def start(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 0.1 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outward(steps: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 4, generator=generator, dtype=torch.float64) - start().sign() for _ in range(steps)]


def feed(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, gradients: list[torch.Tensor]) -> None:
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype).clone()
        optimizer.step()


def regularize(parameter: torch.Tensor, **options) -> list[dict]:
    return [{"params": [parameter], "regularize": True, **options}]


@pytest.mark.parametrize("evaluate_at", ["before", "after"])
def test_around_sgd_it_is_the_algorithm_written_out(evaluate_at):
    theta = torch.nn.Parameter(start())
    optimizer = CPR(torch.optim.SGD(regularize(theta), lr=1e-3, momentum=0.9), evaluate_at=evaluate_at, **WS)
    plain, velocity, lam, kappa, largest = start(), torch.zeros(5, 4, dtype=torch.float64), 0.0, None, 0.0
    gradients = outward(200)
    feed(optimizer, theta, gradients)
    for t, gradient in enumerate(gradients):
        velocity = 0.9 * velocity + gradient
        observed, updates = (plain, t) if evaluate_at == "before" else (plain - 1e-3 * velocity, t + 1)
        size = (observed**2).mean().item()
        if updates == 10:
            kappa = size
        if kappa is not None:
            lam = max(0.0, lam + size - kappa)
            largest = max(largest, lam)
        plain = plain - 1e-3 * velocity - 2 * lam * observed
    assert optimizer.state[theta]["lagmul"].item() == pytest.approx(lam, abs=1e-13)
    assert optimizer.state[theta]["kappa"].item() == pytest.approx(kappa, rel=1e-12)
    assert 0 < largest < 0.25
    assert (theta.detach() - plain).abs().max() <= 1e-12 * plain.abs().max()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("evaluate_at", ["before", "after"])
@pytest.mark.parametrize("bound", [WS, {"kappa_init_method": "inflection_point", "reg_step_size": 7}], ids=["WS", "IP"])
def test_around_adam_it_is_adamcpr_to_the_bit(measure, evaluate_at, bound):
    options = bound | {"evaluate_at": evaluate_at, "reg_function": measure}
    a, b = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    ours = AdamCPR(regularize(a), lr=1e-2, **options)
    wrapped = CPR(
        torch.optim.Adam(regularize(b), lr=1e-2, fused=True), **options
    )  # like kernel="eager", which float64 uses
    feed(ours, a, outward(100))
    feed(wrapped, b, outward(100))
    assert torch.equal(a, b)
    assert all(torch.equal(ours.state[a][name], wrapped.state[b][name]) for name in ("lagmul", "kappa", "kappa_set"))


def test_a_scheduler_on_the_wrapper_sets_the_wrapped_optimizer_s_lr():
    theta = torch.nn.Parameter(start())
    base = torch.optim.SGD(regularize(theta), lr=0.5)
    wrapped = CPR(base, **WS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(wrapped, lambda epoch: 0.1**epoch)
    feed(wrapped, theta, outward(1))
    scheduler.step()
    assert base.param_groups[0]["lr"] == pytest.approx(0.05)
    before = theta.detach().clone()
    gradient = outward(1)
    feed(wrapped, theta, gradient)
    assert (theta.detach() - (before - 0.05 * gradient[0])).abs().max() <= 1e-15


def test_a_scheduler_still_reaches_the_wrapped_optimizer_after_loading():
    theta = torch.nn.Parameter(start())
    base = torch.optim.SGD(regularize(theta), lr=0.5)
    wrapped = CPR(base, **WS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(wrapped, lambda epoch: 0.1**epoch)
    feed(wrapped, theta, outward(1))
    wrapped.load_state_dict(wrapped.state_dict())
    scheduler.step()
    assert base.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("steps", [0, 4, 10, 40])
@pytest.mark.parametrize("bound", [WS, {"kappa_init_method": "inflection_point", "reg_step_size": 3}], ids=["WS", "IP"])
def test_a_loaded_state_continues_to_the_bit(steps, bound, tmp_path):
    gradients = outward(80)
    theta = torch.nn.Parameter(start())
    wrapped = CPR(torch.optim.SGD(regularize(theta), lr=0.01, momentum=0.9), **bound)
    feed(wrapped, theta, gradients[:steps])
    torch.save({"theta": theta.detach(), "state": wrapped.state_dict()}, tmp_path / "saved.pt")
    feed(wrapped, theta, gradients[steps:])

    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    again = torch.nn.Parameter(saved["theta"])
    loaded = CPR(torch.optim.SGD(regularize(again), lr=0.7, momentum=0.9), **bound)
    loaded.load_state_dict(saved["state"])
    feed(loaded, again, gradients[steps:])
    assert torch.equal(theta, again)
    assert wrapped.state[theta]["kappa_set"]
    assert all(torch.equal(wrapped.state[theta][name], loaded.state[again][name]) for name in wrapped.state[theta])


def test_loading_the_state_of_a_run_that_has_not_started_starts_again():
    theta = torch.nn.Parameter(start())
    wrapped = CPR(torch.optim.SGD(regularize(theta), lr=0.01), **WS)
    fresh = copy.deepcopy(wrapped.state_dict())
    feed(wrapped, theta, outward(20))
    assert wrapped.state[theta]["kappa_set"]
    wrapped.load_state_dict(fresh)
    feed(wrapped, theta, outward(1))
    assert wrapped.state[theta]["step"] == 1
    assert not wrapped.state[theta]["kappa_set"]


def test_bfloat16_parameters_keep_float32_scalars_through_loading():
    theta = torch.nn.Parameter(start(dtype=torch.bfloat16))
    wrapped = CPR(torch.optim.SGD(regularize(theta), lr=0.01), **TIGHT)
    feed(wrapped, theta, outward(20))
    before = {name: value.clone() for name, value in wrapped.state[theta].items()}
    wrapped.load_state_dict(wrapped.state_dict())
    assert wrapped.state[theta]["lagmul"].dtype == wrapped.state[theta]["kappa"].dtype == torch.float32
    assert all(torch.equal(value, wrapped.state[theta][name]) for name, value in before.items())


def test_the_state_of_the_wrapped_optimizer_alone_is_resumed_and_the_constraints_start():
    theta, twin = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    base = torch.optim.AdamW(regularize(theta), lr=0.01, weight_decay=0.3)
    feed(base, theta, outward(20))
    twin.data.copy_(theta.data)
    wrapped = CPR(torch.optim.AdamW(regularize(twin, weight_decay=0), lr=0.5), **WS)
    wrapped.load_state_dict(copy.deepcopy(base.state_dict()))
    assert [wrapped.param_groups[0][name] for name in ("lr", "weight_decay", "regularize")] == [0.01, 0, True]
    base.param_groups[0]["weight_decay"] = 0
    for optimizer, parameter in ((base, theta), (wrapped, twin)):
        feed(optimizer, parameter, outward(10))
    assert torch.equal(theta, twin)  # nothing is bounded before the warm start has ended
    assert wrapped.state[twin]["step"] == 10
    feed(wrapped, twin, outward(1))
    assert wrapped.state[twin]["kappa"].item() == pytest.approx(theta.detach().square().mean().item())


def test_moments_saved_with_other_groups_can_be_copied_to_the_wrapped_optimizer():
    model = torch.nn.Linear(4, 5, dtype=torch.float64)
    old = torch.optim.AdamW(model.parameters(), lr=0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    old.step()
    groups = [
        *regularize(model.weight, weight_decay=0),
        {"params": [model.bias], "regularize": False, "weight_decay": 0},
    ]
    wrapped = CPR(torch.optim.AdamW(groups, lr=0), **WS)
    with pytest.raises(ValueError, match="different number of parameter groups: 1, not 2"):
        wrapped.load_state_dict(old.state_dict())
    wrapped.optimizer.state.update(old.state)
    wrapped.step()
    for p in model.parameters():
        assert wrapped.optimizer.state[p]["step"] == 2
        assert torch.allclose(wrapped.optimizer.state[p]["exp_avg"], torch.full_like(p, 2 * (1 - 0.9**2)))


def test_a_setting_missing_in_an_old_state_is_taken_from_the_optimizer():
    theta, again = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    whole, continued = (
        CPR(torch.optim.SGD(regularize(p), lr=0.01, momentum=0.9), evaluate_at="after", safeguard=False, **WS)
        for p in (theta, again)
    )
    feed(whole, theta, outward(30))
    again.data.copy_(theta.data)
    state = copy.deepcopy(whole.state_dict())
    for name in ("safeguard", "evaluate_at", "adaptive", "reg_by_lr"):
        del state["param_groups"][0][name]
    continued.load_state_dict(state)
    for optimizer, parameter in ((whole, theta), (continued, again)):
        feed(optimizer, parameter, outward(30, seed=2))
    assert torch.equal(theta, again)
    assert whole.state[theta]["lagmul"] > 0


@pytest.mark.parametrize("loaded", [False, True], ids=["fresh", "after loading"])
def test_a_group_added_later_is_trained_and_bounded(loaded):
    first, late = torch.nn.Parameter(start()), torch.nn.Parameter(start(1))
    wrapped = CPR(torch.optim.SGD(regularize(first), lr=0.1), kappa_init_method="dependent", kappa_init_param=1)
    if loaded:
        wrapped.load_state_dict(wrapped.state_dict())
    wrapped.add_param_group({"params": [late], "regularize": True})
    assert len(wrapped.param_groups) == len(wrapped.optimizer.param_groups) == 2
    before = late.detach().clone()
    feed(wrapped, late, outward(1))
    assert not torch.equal(before, late)
    assert wrapped.state[late]["kappa_set"]


def test_a_deep_copy_continues_to_the_bit_without_touching_the_original():
    model = torch.nn.Linear(4, 5, bias=False, dtype=torch.float64)
    wrapped = CPR(torch.optim.SGD(regularize(model.weight), lr=0.01, momentum=0.9), **WS)
    feed(wrapped, model.weight, outward(30))
    twin_model, twin = copy.deepcopy((model, wrapped))
    unchanged = model.weight.detach().clone()
    feed(twin, twin_model.weight, outward(30, seed=2))
    assert torch.equal(model.weight, unchanged)
    feed(wrapped, model.weight, outward(30, seed=2))
    assert torch.equal(model.weight, twin_model.weight)


def test_a_pickled_wrapper_continues_to_the_bit_with_the_optimizer_it_wraps():
    model = torch.nn.Linear(4, 5, bias=False, dtype=torch.float64)
    wrapped = CPR(torch.optim.SGD(regularize(model.weight), lr=0.01, momentum=0.9), **WS)
    feed(wrapped, model.weight, outward(30))
    twin_model, twin = pickle.loads(pickle.dumps((model, wrapped)))
    for optimizer, parameter in ((wrapped, model.weight), (twin, twin_model.weight)):
        feed(optimizer, parameter, outward(30, seed=2))
    assert torch.equal(model.weight, twin_model.weight)
    assert wrapped.state[model.weight]["lagmul"] > 0
    assert twin.param_groups[0] is twin.optimizer.param_groups[0]


def test_the_wrapped_optimizer_s_own_weight_decay_is_replaced():
    theta = torch.nn.Parameter(start())
    wrapped = CPR(
        torch.optim.AdamW([theta], lr=0.1, weight_decay=0.3), kappa_init_method="uniform", kappa_init_param=100
    )
    assert wrapped.param_groups[0]["regularize"]
    assert wrapped.optimizer.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("decay", [(0.25, 0), (0, 0.25)], ids=["matrices", "biases"])
def test_weight_decay_beside_regularize_is_refused(decay):
    theta, bias = torch.nn.Parameter(start()), torch.nn.Parameter(torch.zeros(3))
    groups = [
        *regularize(theta, weight_decay=decay[0]),
        {"params": [bias], "regularize": False, "weight_decay": decay[1]},
    ]
    with pytest.raises(ValueError, match=r"weight_decay=0\.25"):
        CPR(torch.optim.AdamW(groups), **WS)


def test_parameters_that_are_not_regularized_follow_the_wrapped_optimizer_alone():
    theta, bias = torch.nn.Parameter(start()), torch.nn.Parameter(start(1))
    groups = [*regularize(theta), {"params": [bias], "regularize": False}]
    wrapped = CPR(torch.optim.SGD(groups, lr=0.5), **TIGHT)
    before, gradient = bias.detach().clone(), outward(1)
    feed(wrapped, bias, gradient)
    assert torch.equal(bias.detach(), before - 0.5 * gradient[0])
    assert bias not in wrapped.state


def test_the_closure_is_called_once_with_gradients_and_its_loss_returned():
    theta = torch.nn.Parameter(start())
    wrapped = CPR(torch.optim.SGD(regularize(theta), lr=0.5), **WS)
    losses = []

    def closure():
        wrapped.zero_grad()
        losses.append(theta.square().sum())
        losses[-1].backward()
        return losses[-1]

    assert wrapped.step(closure) is losses[0]
    assert len(losses) == 1
