"""The optimizer's state is complete: saved, loaded, started late."""

import copy
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from cpr import AdamCPR

torch.set_num_threads(1)

STEPS = 60
BOUNDS = {
    "uniform": {"kappa_init_method": "uniform", "kappa_init_param": 0.01},
    "dependent": {"kappa_init_method": "dependent", "kappa_init_param": 1.1},
    "warm_start": {"kappa_init_method": "warm_start", "kappa_init_param": 20},
    "inflection_point": {"kappa_init_method": "inflection_point", "reg_step_size": 5},
    "smoothed": {"kappa_init_method": "inflection_point", "reg_step_size": 5, "reg_ema_decay": 0.8},
}
WS = BOUNDS["warm_start"]
every_bound = pytest.mark.parametrize("bound", BOUNDS)


def start(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.05 * torch.randn(6, 5, generator=torch.Generator().manual_seed(3))).to(dtype)


def gradients(steps: int = STEPS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(6, 5, generator=generator) - 2 * 0.96**t * start().sign() for t in range(steps)]


def optimizer_of(parameter: nn.Parameter, **options) -> AdamCPR:
    return AdamCPR([{"params": [parameter], "regularize": True}], **({"lr": 1e-2} | options))


def feed(optimizer: AdamCPR, parameter: nn.Parameter, grads: list[torch.Tensor]) -> None:
    for gradient in grads:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def assert_same(a: nn.Parameter, b: nn.Parameter, first: AdamCPR, second: AdamCPR) -> None:
    assert torch.equal(a, b)
    assert first.state[a].keys() == second.state[b].keys()
    for name, value in first.state[a].items():
        assert value.dtype == second.state[b][name].dtype
        assert torch.equal(value, second.state[b][name])


def interrupted(
    step: int, path, dtype: torch.dtype = torch.float32, **options
) -> tuple[nn.Parameter, nn.Parameter, AdamCPR, AdamCPR]:
    """Return a run of STEPS steps, and one that was saved at `step` and resumed by a new optimizer."""
    a = nn.Parameter(start(dtype))
    whole = optimizer_of(a, **options)
    feed(whole, a, gradients()[:step])
    torch.save({"theta": a.detach(), "optimizer": whole.state_dict()}, path)
    feed(whole, a, gradients()[step:])
    saved = torch.load(path, weights_only=True)
    b = nn.Parameter(saved["theta"])
    continued = optimizer_of(b, lr=0.5, kappa_init_method="uniform", kappa_init_param=7.0)  # all of it is overwritten
    continued.load_state_dict(saved["optimizer"])
    feed(continued, b, gradients()[step:])
    return a, b, whole, continued


@every_bound
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    step=st.integers(0, STEPS),
    evaluate_at=st.sampled_from(["before", "after"]),
    adaptive=st.sampled_from([False, "transition", "latched"]),
    measure=st.sampled_from(["l2", "l1", "huber", "std"]),
    amsgrad=st.booleans(),
)
@example(step=19, evaluate_at="before", adaptive="latched", measure="l2", amsgrad=False)
@example(step=20, evaluate_at="before", adaptive="latched", measure="l2", amsgrad=False)
@example(step=21, evaluate_at="before", adaptive="latched", measure="l2", amsgrad=False)
def test_a_loaded_state_continues_to_the_bit(bound, step, evaluate_at, adaptive, measure, amsgrad, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "saved.pt"
    assert_same(
        *interrupted(
            step,
            path,
            evaluate_at=evaluate_at,
            adaptive=adaptive,
            reg_function=measure,
            amsgrad=amsgrad,
            **BOUNDS[bound],
        )
    )


@every_bound
def test_in_the_interrupted_runs_kappa_is_set_and_the_constraint_acts(bound):
    parameter = nn.Parameter(start())
    optimizer = optimizer_of(parameter, **BOUNDS[bound])
    multipliers, first_set = [], None
    for t, gradient in enumerate(gradients()):
        feed(optimizer, parameter, [gradient])
        multipliers.append(optimizer.state[parameter]["lagmul"].item())
        if first_set is None and optimizer.state[parameter]["kappa_set"]:
            first_set = t
    assert max(multipliers) > 0
    assert first_set is not None
    assert (first_set == 0) == (bound in ("uniform", "dependent"))


@pytest.mark.parametrize("before", [-1, 0, 1])
@pytest.mark.parametrize("bound", ["warm_start", "inflection_point", "smoothed"])
def test_continuing_across_the_moment_kappa_is_set_gives_the_same_kappa(bound, before, tmp_path):
    parameter = nn.Parameter(start())
    optimizer = optimizer_of(parameter, **BOUNDS[bound])
    moment = 0
    while moment == 0 or not optimizer.state[parameter]["kappa_set"]:
        feed(optimizer, parameter, [gradients()[moment]])
        moment += 1
    a, b, whole, continued = interrupted(moment + before, tmp_path / "saved.pt", **BOUNDS[bound])
    assert_same(a, b, whole, continued)
    assert torch.equal(continued.state[b]["kappa"], optimizer.state[parameter]["kappa"])


@every_bound
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_of_other_dtypes_continue_to_the_bit(bound, dtype, tmp_path):
    assert_same(*interrupted(21, tmp_path / "saved.pt", dtype=dtype, adaptive="latched", eps=1e-4, **BOUNDS[bound]))


@every_bound
def test_with_bfloat16_parameters_lambda_and_kappa_stay_float32_through_loading(bound):
    parameter = nn.Parameter(start(torch.bfloat16))
    optimizer = optimizer_of(parameter, **BOUNDS[bound])
    feed(optimizer, parameter, gradients()[:30])
    before = optimizer.state_dict()["state"][0]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for state in (before, optimizer.state[parameter]):
        assert state["lagmul"].dtype == state["kappa"].dtype == torch.float32
        assert state["kappa_set"].dtype == torch.bool
        assert state["exp_avg"].dtype == torch.bfloat16


def test_loading_does_not_share_memory_with_the_saved_state():
    parameter = nn.Parameter(start())
    optimizer = optimizer_of(parameter, **BOUNDS["uniform"])
    feed(optimizer, parameter, gradients()[:30])
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    kept = saved["state"][0]["lagmul"].clone()
    feed(optimizer, parameter, gradients()[30:])
    assert torch.equal(saved["state"][0]["lagmul"], kept)
    assert not torch.equal(optimizer.state[parameter]["lagmul"], kept)


@every_bound
def test_a_deep_copy_continues_to_the_bit_without_touching_the_original(bound):
    a = nn.Parameter(start())
    original = optimizer_of(a, adaptive="latched", **BOUNDS[bound])
    feed(original, a, gradients()[:25])
    b, twin = copy.deepcopy((a, original))
    kept, multiplier = a.detach().clone(), original.state[a]["lagmul"].clone()
    feed(twin, b, gradients()[25:])
    assert torch.equal(a, kept)
    assert torch.equal(original.state[a]["lagmul"], multiplier)
    feed(original, a, gradients()[25:])
    assert_same(a, b, original, twin)


def test_a_parameter_without_gradient_and_its_state_are_left_alone():
    a, b = nn.Parameter(start()), nn.Parameter(start())
    optimizer = AdamCPR([{"params": [a, b], "regularize": True}], lr=1e-2, **BOUNDS["uniform"])
    for gradient in gradients()[:30]:
        a.grad, b.grad = gradient.clone(), gradient.clone()
        optimizer.step()
    kept, state = b.detach().clone(), copy.deepcopy(dict(optimizer.state[b]))
    b.grad = None
    moved = a.detach().clone()
    feed(optimizer, a, gradients()[30:40])
    assert torch.equal(b, kept)
    assert all(torch.equal(value, optimizer.state[b][name]) for name, value in state.items())
    assert not torch.equal(a, moved)


@every_bound
def test_a_parameter_unfrozen_late_counts_its_own_steps(bound):
    early, late, alone = nn.Parameter(start()), nn.Parameter(start()), nn.Parameter(start())
    together = AdamCPR([{"params": [early, late], "regularize": True}], lr=1e-2, **BOUNDS[bound])
    separate = optimizer_of(alone, **BOUNDS[bound])
    feed(together, early, gradients()[:13])
    for gradient in gradients()[:40]:
        early.grad, late.grad = gradient.clone(), gradient.clone()
        together.step()
    feed(separate, alone, gradients()[:40])
    assert together.state[early]["step"] == 53
    assert_same(late, alone, together, separate)


def test_a_group_added_later_counts_its_own_steps():
    early, late, alone = nn.Parameter(start()), nn.Parameter(start()), nn.Parameter(start())
    together, separate = optimizer_of(early, **WS), optimizer_of(alone, **WS)
    feed(together, early, gradients()[:13])
    together.add_param_group({"params": [late], "regularize": True})
    early.grad = None
    feed(together, late, gradients()[:40])
    feed(separate, alone, gradients()[:40])
    assert_same(late, alone, together, separate)


def test_each_group_may_have_its_own_bound():
    a, b = nn.Parameter(start()), nn.Parameter(start())
    groups = [{"params": [a], "regularize": True}, {"params": [b], "regularize": True, "kappa_init_param": 0.5}]
    optimizer = AdamCPR(groups, kappa_init_method="uniform", kappa_init_param=0.25)
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    optimizer.step()
    assert [optimizer.state[p]["kappa"].item() for p in (a, b)] == [0.25, 0.5]


@pytest.mark.parametrize("bound", [WS, BOUNDS["inflection_point"]], ids=["WS", "IP"])
def test_a_matrix_that_starts_at_zero_is_bounded_once_it_is_not_zero(bound):
    parameter = nn.Parameter(torch.zeros(4, 3))
    optimizer = optimizer_of(parameter, **bound)
    feed(optimizer, parameter, [torch.zeros(4, 3)] * 40)
    assert not optimizer.state[parameter]["kappa_set"]
    feed(optimizer, parameter, [torch.full((4, 3), 0.9**t) for t in range(40)])
    assert optimizer.state[parameter]["kappa_set"]
    assert optimizer.state[parameter]["kappa"] > 0


def test_a_dependent_bound_of_a_zero_matrix_is_refused_with_its_shape():
    parameter = nn.Parameter(torch.zeros(4, 3))
    optimizer = optimizer_of(parameter, **BOUNDS["dependent"])
    with pytest.raises(ValueError, match=r"\(4, 3\) starts at zero"):
        feed(optimizer, parameter, [torch.ones(4, 3)])


def test_an_adamw_checkpoint_keeps_its_moments_and_the_constraints_start():
    a = nn.Parameter(start())
    bias = nn.Parameter(torch.zeros(5))
    groups = [{"params": [a], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-2)
    for gradient in gradients()[:20]:
        a.grad, bias.grad = gradient.clone(), gradient[0].clone()
        adamw.step()
    saved = copy.deepcopy(adamw.state_dict())
    ours = AdamCPR(
        [{"params": [a], "regularize": True}, {"params": [bias], "regularize": False}], lr=1e-2, **BOUNDS["dependent"]
    )
    ours.load_state_dict(saved)
    size, momentum = a.detach().square().mean(), adamw.state[a]["exp_avg"].clone()
    a.grad, bias.grad = torch.zeros_like(a), torch.zeros_like(bias)
    ours.step()
    assert ours.state[a]["step"] == 21
    assert torch.allclose(ours.state[a]["exp_avg"], 0.9 * momentum)
    assert ours.state[a]["kappa"].item() == pytest.approx(1.1 * size.item(), rel=1e-6)
    assert "kappa" not in ours.state[bias]
    assert [group["regularize"] for group in ours.param_groups] == [True, False]
    assert [group["weight_decay"] for group in ours.param_groups] == [0.0, 0.0]


def test_an_inflection_point_after_another_adam_s_steps_needs_new_samples():
    parameter = nn.Parameter(start())
    adam = torch.optim.Adam([parameter])
    for gradient in gradients()[:40]:
        parameter.grad = gradient.clone()
        adam.step()
    optimizer = optimizer_of(parameter, lr=0, kappa_init_method="inflection_point", reg_step_size=5)
    optimizer.load_state_dict(adam.state_dict())
    for t in range(60):  # the growth accelerates up to t = 39, then stops
        parameter.data.fill_(1 + min(t, 39) / 20)
        feed(optimizer, parameter, [torch.zeros_like(parameter)])
        assert bool(optimizer.state[parameter]["kappa_set"]) == (
            t >= 40
        )  # the first sample that grew less than the one before


def adamw_of_all_parameters(model: nn.Module) -> dict:
    """Return the state of AdamW(model.parameters()), one group, after a few steps."""
    adamw = torch.optim.AdamW(model.parameters(), lr=0)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.full_like(p, 2.0)
        adamw.step()
    return copy.deepcopy(adamw.state_dict())


def test_a_state_with_another_number_of_groups_is_refused_but_its_moments_can_be_copied():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    checkpoint = adamw_of_all_parameters(model)
    ours = AdamCPR(model, **BOUNDS["dependent"])
    with pytest.raises(
        ValueError, match=r"different number of parameter groups: 1, not 2\. .*state\.update\(old\.state\)"
    ):
        ours.load_state_dict(checkpoint)
    old = torch.optim.AdamW(model.parameters())
    old.load_state_dict(checkpoint)
    ours.state.update(old.state)
    ours.step()
    for p in model.parameters():
        assert ours.state[p]["step"] == 4
        assert torch.allclose(ours.state[p]["exp_avg"], torch.full_like(p, 2 * (1 - 0.9**4)))
        assert ("kappa" in ours.state[p]) == (p.ndim == 2)


NEWER = ("kernel", "safeguard", "evaluate_at", "adaptive", "maximize", "reg_by_lr")


@pytest.mark.parametrize(
    "lacking", [*((name,) for name in NEWER), NEWER], ids=lambda names: names[0] if len(names) == 1 else "all"
)
def test_a_setting_missing_in_an_old_state_is_taken_from_the_optimizer(lacking):
    a, b = nn.Parameter(start()), nn.Parameter(start())
    whole = optimizer_of(a, evaluate_at="after", safeguard=False, **BOUNDS["dependent"])
    feed(whole, a, gradients()[:30])
    state = copy.deepcopy(whole.state_dict())
    for name in lacking:
        del state["param_groups"][0][name]
    b.data.copy_(a.data)
    continued = optimizer_of(b, evaluate_at="after", safeguard=False, **WS)  # WS is overwritten
    continued.load_state_dict(state)
    feed(whole, a, gradients()[30:])
    feed(continued, b, gradients()[30:])
    assert_same(a, b, whole, continued)
    assert whole.state[a]["lagmul"] > 0


@every_bound
def test_a_pickled_optimizer_continues_to_the_bit(bound):
    a = nn.Parameter(start())
    original = optimizer_of(a, adaptive="latched", **BOUNDS[bound])
    feed(original, a, gradients()[:25])
    b, twin = pickle.loads(pickle.dumps((a, original)))
    feed(twin, b, gradients()[25:])
    feed(original, a, gradients()[25:])
    assert_same(a, b, original, twin)


def test_a_scaler_that_found_an_infinite_gradient_leaves_lambda_and_kappa_alone():
    parameter = nn.Parameter(start())
    optimizer = optimizer_of(parameter, **BOUNDS["dependent"])
    feed(optimizer, parameter, gradients()[:30])
    before = {name: value.clone() for name, value in optimizer.state[parameter].items()}
    assert before["lagmul"] > 0
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale((parameter * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(value, optimizer.state[parameter][name]) for name, value in before.items())
    parameter.grad = None
    scaler.scale(parameter.sum()).backward()
    scaler.step(optimizer)
    assert optimizer.state[parameter]["step"] == 31
