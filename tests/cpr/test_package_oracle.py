"""Compare with the authors' package, pytorch-cpr 0.3.1: agreement, deliberate differences, checkpoints."""

import copy

import pytest
import pytorch_cpr
import torch
from torch import nn

from cpr import AdamCPR, regularized_names

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_cpr", "ignore::DeprecationWarning:pytorch_cpr")

foreach_too = pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "single"])
NEVER_SET = 1e6  # the package's κ before it has found an inflection point


def regularize(parameter: torch.Tensor) -> list[dict]:
    return [{"params": [parameter], "regularize": True}]


def two_of(start: torch.Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(start.clone()), nn.Parameter(start.clone())


def step(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
    parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.clone()
    optimizer.step()


def follow(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, norms: list[float]) -> None:
    """Step with a matrix of norm norms[t - 1] at step t. Its update is zero."""
    for norm in norms:
        parameter.data.fill_(norm / parameter.numel() ** 0.5)
        step(optimizer, parameter)


@foreach_too
@pytest.mark.parametrize(("method", "parameter"), [("dependent", 1.2), ("dependent", 0.8), ("warm_start", 20)])
def test_evaluated_after_the_step_ours_equals_the_package(method, parameter, foreach):
    generator = torch.Generator().manual_seed(0)
    start = 0.1 * torch.randn(12, 7, generator=generator)
    a, b = two_of(start)
    arguments = {"lr": 3e-3, "kappa_init_method": method, "kappa_init_param": parameter}
    ours = AdamCPR(regularize(a), evaluate_at="after", **arguments)
    theirs = pytorch_cpr.AdamCPR(regularize(b), foreach=foreach, **arguments)
    largest = 0.0
    for _ in range(300):
        gradient = torch.randn(12, 7, generator=generator) - 0.5 * start.sign()
        step(ours, a, gradient)
        step(theirs, b, gradient)
        largest = max(largest, theirs.state[b]["lagmul"].item())
    assert largest > 0
    assert (a - b).abs().max() <= 2e-6 * b.abs().max()
    assert abs(ours.state[a]["lagmul"].item() - theirs.state[b]["lagmul"].item()) <= 2e-6
    assert theirs.state[b]["kappa"].item() == pytest.approx(start.numel() * ours.state[a]["kappa"].item(), rel=2e-6)


@foreach_too
def test_a_uniform_bound_is_a_sum_in_the_package_and_a_mean_here(foreach):
    values = {"there": [], "here": []}
    for shape in ((4, 4), (16, 16)):
        a, b = two_of(torch.full(shape, 0.1))
        ours = AdamCPR(regularize(a), lr=1.0, kappa_init_method="uniform", kappa_init_param=0.05)
        theirs = pytorch_cpr.AdamCPR(
            regularize(b), lr=1.0, kappa_init_method="uniform", kappa_init_param=0.05, foreach=foreach
        )
        step(ours, a)
        step(theirs, b)
        values["here"].append(ours.state[a]["lagmul"].item() > 0)
        values["there"].append(theirs.state[b]["lagmul"].item() > 0)
    assert values == {"there": [True, True], "here": [False, False]}  # sums 0.16 and 2.56, mean 0.01


def test_a_larger_matrix_gets_smaller_elements_in_the_package_and_equal_ones_here():
    sizes = {"there": [], "here": []}
    for shape in ((4, 4), (16, 16)):
        a, b = two_of(torch.full(shape, 0.3))
        ours = AdamCPR(regularize(a), lr=1e-3, kappa_init_method="uniform", kappa_init_param=0.05)
        theirs = pytorch_cpr.AdamCPR(
            regularize(b), lr=1e-3, kappa_init_method="uniform", kappa_init_param=0.8, foreach=True
        )
        for _ in range(1000):
            step(ours, a, -torch.ones(shape))
            step(theirs, b, -torch.ones(shape))
        sizes["here"].append(a.square().mean().item())
        sizes["there"].append(b.square().mean().item())
    assert sizes["here"] == pytest.approx([0.05, 0.05], rel=0.1)
    assert sizes["there"] == pytest.approx([0.8 / 16, 0.8 / 256], rel=0.1)


def l1_pull(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.Tensor:
    before = parameter.detach().clone()
    step(optimizer, parameter)
    return before - parameter.detach()


def test_foreach_l1_pulls_by_theta_in_the_package_and_by_its_sign_here():
    start = torch.tensor([[0.5, -1.0], [2.0, -4.0]])
    arguments = {"lr": 1.0, "kappa_init_method": "dependent", "kappa_init_param": 0.9, "reg_function": "l1"}
    a, b = two_of(start)
    ours, theirs = AdamCPR(regularize(a), **arguments), pytorch_cpr.AdamCPR(regularize(b), foreach=True, **arguments)
    here, there = l1_pull(ours, a), l1_pull(theirs, b)
    assert torch.allclose(here, ours.state[a]["lagmul"] * start.sign())
    assert torch.allclose(there, theirs.state[b]["lagmul"] * start)
    assert ours.state[a]["lagmul"] > 0


def test_single_tensor_l1_pulls_by_the_sign_in_the_package_too():
    start = torch.tensor([[0.5, -1.0], [2.0, -4.0]])
    arguments = {"lr": 1.0, "kappa_init_method": "dependent", "kappa_init_param": 0.9, "reg_function": "l1"}
    a, b = two_of(start)
    here = l1_pull(AdamCPR(regularize(a), **arguments), a)
    assert torch.allclose(here, l1_pull(pytorch_cpr.AdamCPR(regularize(b), foreach=False, **arguments), b))


INTERVAL = 10
CONCAVE_AND_SLOW = [
    1 + 0.02 * (t / 100) ** 0.5 for t in range(1, 101)
]  # grows by less than 1 % per interval, and less each time
CONVEX_SQUARE = [1 + t / 20 for t in range(1, 101)]  # linear norm: R accelerates, its relative growth falls


def inflections(norms: list[float], foreach: bool, **options) -> tuple[bool, bool]:
    """Tell whether an inflection point was found, as (in the package, here)."""
    a, b = two_of(torch.ones(5, 4))
    arguments = {"lr": 1.0, "kappa_init_method": "inflection_point", "reg_step_size": INTERVAL}
    ours = AdamCPR(regularize(a), evaluate_at="after", **arguments)
    theirs = pytorch_cpr.AdamCPR(regularize(b), foreach=foreach, **arguments, **options)
    follow(ours, a, norms)
    follow(theirs, b, norms)
    return theirs.state[b]["kappa"].item() != NEVER_SET, bool(ours.state[a]["kappa_set"])


@pytest.mark.parametrize("decay", [0.0, 0.99])
def test_slow_concave_growth_triggers_the_inflection_point_here_but_not_in_the_package(decay):
    assert inflections(CONCAVE_AND_SLOW, foreach=True, reg_ema_decay=decay) == (False, True)


def test_accelerating_growth_triggers_the_inflection_point_in_the_package_but_not_here():
    assert inflections(CONVEX_SQUARE, foreach=True, reg_ema_decay=0.0) == (True, False)


@pytest.mark.parametrize(
    "norms", [CONCAVE_AND_SLOW, CONVEX_SQUARE, [t**0.25 for t in range(1, 101)]], ids=["slow", "convex", "fast"]
)
def test_the_package_s_single_tensor_inflection_point_never_triggers(norms):
    assert not inflections(norms, foreach=False)[0]


def test_fast_concave_growth_triggers_the_inflection_point_in_both():
    assert inflections([t**0.25 for t in range(1, 101)], foreach=True, reg_ema_decay=0.0) == (True, True)


def test_the_inflection_point_sets_kappa_here_at_the_fourth_sample_of_concave_growth():
    parameter = nn.Parameter(torch.ones(5, 4))
    options = {"lr": 1.0, "kappa_init_method": "inflection_point", "reg_step_size": INTERVAL}
    optimizer = AdamCPR(regularize(parameter), evaluate_at="after", **options)
    follow(optimizer, parameter, CONCAVE_AND_SLOW[:39])
    assert not optimizer.state[parameter]["kappa_set"]
    follow(optimizer, parameter, CONCAVE_AND_SLOW[39:40])
    assert optimizer.state[parameter]["kappa"].item() == pytest.approx(CONCAVE_AND_SLOW[39] ** 2 / 20, rel=1e-6)


def test_a_plain_list_is_silently_not_regularized_in_the_package_and_an_error_here():
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    assert not pytorch_cpr.AdamCPR([parameter]).param_groups[0]["regularize"]
    with pytest.raises(ValueError, match="no parameter is regularized"):
        AdamCPR([parameter])


def names_regularized_there(model: nn.Module, **options) -> set[str]:
    groups = pytorch_cpr.group_parameters_for_cpr_optimizer(model, **options)
    chosen = {id(p) for group in groups if group["regularize"] for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", pretrained=False)


def test_the_package_regularizes_a_vit_s_class_token_and_ours_its_patch_projection(vit):
    there, here = names_regularized_there(vit), set(regularized_names(vit))
    assert there - here == {"cls_token"}
    assert here - there == {"patch_embed.proj.weight"}


def test_with_embeddings_a_vit_s_positions_are_regularized_in_the_package_but_not_here(vit):
    there, here = (
        names_regularized_there(vit, regularize_embedding=True),
        set(regularized_names(vit, reg_embedding=True)),
    )
    assert there - here == {"cls_token", "pos_embed"}
    assert not here - there


def test_rmsnorm_is_regularized_in_the_package_but_not_here():
    model = nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4))
    assert names_regularized_there(model) == {"0.weight", "1.weight"}
    assert regularized_names(model) == ["0.weight"]


def test_the_inflection_point_is_smoothed_by_default_in_the_package_but_not_here():
    a, b = two_of(torch.ones(3, 3))
    assert pytorch_cpr.AdamCPR(regularize(b)).reg_ema_decay == 0.99
    assert AdamCPR(regularize(a)).defaults["reg_ema_decay"] == 0


@foreach_too
def test_a_warm_start_of_zero_steps_gives_bound_zero_in_the_package_and_the_initial_size_here(foreach):
    start = torch.full((4, 4), 0.1)
    a, b = two_of(start)
    arguments = {"lr": 1.0, "kappa_init_method": "warm_start", "kappa_init_param": 0}
    ours = AdamCPR(regularize(a), **arguments)
    theirs = pytorch_cpr.AdamCPR(regularize(b), foreach=foreach, **arguments)
    for _ in range(50):
        step(ours, a)
        step(theirs, b)
    assert theirs.state[b]["kappa"] == 0
    assert b.abs().max() < 0.01
    assert ours.state[a]["kappa"].item() == pytest.approx(0.01)
    assert torch.equal(a.detach(), start)


# --- checkpoints of the package


@foreach_too
@pytest.mark.parametrize("measure", ["l2", "std", "huber"])
@pytest.mark.parametrize(("method", "parameter"), [("dependent", 1.2), ("warm_start", 20)])
@pytest.mark.parametrize("saved_at", [10, 20, 100])
def test_a_checkpoint_of_the_package_continues_here_as_in_the_package(saved_at, method, parameter, measure, foreach):
    generator = torch.Generator().manual_seed(0)
    start = 0.1 * torch.randn(12, 7, generator=generator)
    pushes = [torch.randn(12, 7, generator=generator) - 0.5 * start.sign() for _ in range(200)]
    arguments = {
        "lr": 3e-3,
        "kappa_init_method": method,
        "kappa_init_param": parameter,
        "reg_function": measure,
        "amsgrad": True,
    }
    b = nn.Parameter(start.clone())
    theirs = pytorch_cpr.AdamCPR(regularize(b), foreach=foreach, **arguments)
    for push in pushes[:saved_at]:
        step(theirs, b, push)
    a = nn.Parameter(b.detach().clone())
    ours = AdamCPR(regularize(a), evaluate_at="after", safeguard=False, **arguments)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for push in pushes[saved_at:]:
        step(ours, a, push)
        step(theirs, b, push)
    assert theirs.state[b]["lagmul"] > 0
    assert (a - b).abs().max() <= 5e-6 * b.abs().max()
    assert ours.state[a]["lagmul"].item() == pytest.approx(theirs.state[b]["lagmul"].item(), rel=1e-3, abs=2e-6)
    n = 1 if measure == "std" else start.numel()
    assert theirs.state[b]["kappa"].item() == pytest.approx(n * ours.state[a]["kappa"].item(), rel=5e-6)
    assert ours.state[a]["step"] == 200


def checkpoint_of_inflection(norms: list[float], **options) -> tuple[nn.Parameter, dict]:
    parameter = nn.Parameter(torch.ones(5, 4))
    theirs = pytorch_cpr.AdamCPR(
        regularize(parameter), lr=1.0, foreach=True, reg_step_size=INTERVAL, reg_ema_decay=0.0, **options
    )
    follow(theirs, parameter, norms)
    return parameter, theirs.state_dict()


def test_a_found_inflection_point_is_kept_per_element_and_an_unfinished_search_restarts():
    options = {"lr": 1.0, "kappa_init_method": "inflection_point", "reg_step_size": INTERVAL, "adaptive": "latched"}
    for norms, found in (([t**0.25 for t in range(1, 101)], True), (CONVEX_SQUARE[:30], False)):
        parameter, state = checkpoint_of_inflection(norms)
        assert (state["state"][0]["kappa"].item() != NEVER_SET) == found
        ours = AdamCPR(regularize(parameter), **options)
        ours.load_state_dict(copy.deepcopy(state))
        step(ours, parameter)
        assert bool(ours.state[parameter]["kappa_set"]) == found
        if found:
            assert ours.state[parameter]["kappa"].item() == pytest.approx(
                state["state"][0]["kappa"].item() / 20, rel=1e-6
            )
        follow(ours, parameter, [3 + 0.1 * t**0.5 for t in range(100)])
        assert ours.state[parameter]["kappa_set"]


def test_a_checkpoint_of_the_package_loads_into_its_own_groups_and_not_into_ours():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    theirs = pytorch_cpr.AdamCPR(model, kappa_init_method="dependent", kappa_init_param=2.0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    theirs.step()
    state = copy.deepcopy(theirs.state_dict())
    with pytest.raises(ValueError, match="group_parameters_for_cpr_optimizer"):
        AdamCPR(model).load_state_dict(state)
    groups = pytorch_cpr.group_parameters_for_cpr_optimizer(model)
    with pytest.raises(ValueError, match=r"moment of shape \(4, 5\) for a parameter of shape \(4, 4\)"):
        AdamCPR([groups[0] | {"params": groups[0]["params"][::-1]}, groups[1]]).load_state_dict(state)
    ours = AdamCPR(groups, kappa_init_method="dependent", kappa_init_param=2.0)
    ours.load_state_dict(state)
    assert "kappa" not in ours.state[model[0].bias]
    ours.step()
    assert all(ours.state[p]["step"] == 2 for p in model.parameters())
    for layer in (model[0], model[2]):
        there = theirs.state[layer.weight]["kappa"].item()
        assert ours.state[layer.weight]["kappa"].item() == pytest.approx(there / layer.weight.numel(), rel=1e-6)
