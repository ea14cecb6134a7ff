"""Nothing fails silently: wrong sizes, changed settings and state, non-finite numbers, untrained parameters."""

import copy
import gc
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

import cpr
from cpr import CPR, AdamCPR, regularized_groups
from cpr.baselines import AdamAWD

torch.set_num_threads(1)

BOUND = {"kappa_init_method": "dependent", "kappa_init_param": 1.05}
NO_BOUND = {"kappa_init_method": "uniform", "kappa_init_param": 1e9}
MAKERS = {
    "eager": lambda model, **options: AdamCPR(model, lr=1e-2, kernel="eager", **options),
    "cpu": lambda model, **options: AdamCPR(model, lr=1e-2, kernel="cpu", **options),
    "wrapper": lambda model, **options: CPR(
        torch.optim.SGD(regularized_groups(model), lr=1e-2, momentum=0.9), **options
    ),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def network(out: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, out))


def train(model: nn.Module, optimizer: Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        (
            5 * torch.randn(16, 1, generator=generator) - model(torch.randn(16, 8, generator=generator))
        ).square().mean().backward()
        optimizer.step()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- sizes


@every_maker
@pytest.mark.parametrize("rows", [11, 1000])
def test_the_state_of_another_head_is_refused_with_its_name_and_both_shapes(make, rows):
    old, new = network(10), network(rows)
    first, second = make(old, **BOUND), make(new, **BOUND)
    train(old, first, 2)
    before = weights(new)
    with pytest.raises(ValueError, match=rf"has shape \(10, 64\), and the parameter has \({rows}, 64\)"):
        second.load_state_dict(first.state_dict())
    train(new, second, 1)  # the refused state changed nothing
    assert not same(weights(new), before)


def test_adamcpr_of_a_model_names_the_parameter():
    old, new = network(10), network(11)
    first = AdamCPR(old)
    train(old, first, 1)
    with pytest.raises(ValueError, match=r"exp_avg of 2\.weight has shape"):
        AdamCPR(new).load_state_dict(first.state_dict())


@pytest.mark.parametrize("kernel", ["eager", "cpu"])
@pytest.mark.parametrize("evaluate_at", ["before", "after"])
def test_a_grown_matrix_with_cleared_state_is_measured_by_its_new_size(kernel, evaluate_at):
    """R is a mean, so the old number of elements would give a wrong κ and λ."""
    torch.manual_seed(0)
    old, new = nn.Parameter(torch.randn(6, 8)), torch.randn(12, 8)
    gradients = [torch.randn(12, 8) for _ in range(3)]
    bound = {
        "kappa_init_method": "dependent",
        "kappa_init_param": 1.0,
        "kappa_update": 0.1,
        "evaluate_at": evaluate_at,
        "kernel": kernel,
    }
    optimizer = AdamCPR([{"params": [old], "regularize": True}], lr=1e-2, **bound)
    old.grad = torch.randn(6, 8)
    optimizer.step()
    old.data, old.grad = new.clone(), None
    optimizer.state.clear()

    fresh = nn.Parameter(new.clone())
    expected = AdamCPR([{"params": [fresh], "regularize": True}], lr=1e-2, **bound)
    for gradient in gradients:
        for p, by in ((old, optimizer), (fresh, expected)):
            p.grad = gradient.clone()
            by.step()
    assert torch.equal(old, fresh)
    for name in ("kappa", "lagmul"):
        assert torch.equal(optimizer.state[old][name], expected.state[fresh][name]), name
    assert expected.state[fresh]["lagmul"] > 0


@pytest.mark.parametrize("kernel", ["eager", "cpu", "triton"])
def test_a_grown_head_is_refused_until_its_state_has_grown_too(kernel):
    model = network()
    head = model[2].weight
    optimizer = AdamCPR([{"params": [head], "regularize": True}], lr=1e-2, kernel=kernel, **NO_BOUND)
    oracle_of = nn.Parameter(head.detach().clone())
    oracle = torch.optim.Adam([oracle_of], lr=1e-2, foreach=False)

    def grow(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, torch.ones(3, 64)])

    def step(p: nn.Parameter, by: Optimizer) -> None:
        p.grad = torch.linspace(-1, 1, p.numel()).view_as(p)
        by.step()

    step(head, optimizer)
    step(oracle_of, oracle)
    head.data, head.grad = grow(head.data), None
    oracle_of.data, oracle_of.grad = grow(oracle_of.data), None
    with pytest.raises(ValueError, match=r"exp_avg of .* has shape \(10, 64\) .* \(13, 64\)"):
        step(head, optimizer)
    for p, by in ((head, optimizer), (oracle_of, oracle)):
        for name in ("exp_avg", "exp_avg_sq"):
            by.state[p][name] = grow(by.state[p][name])
        step(p, by)
    assert (head - oracle_of).abs().max() <= 1e-6
    assert cpr.snapshot(optimizer)["parameter 0 of group 0"].R == pytest.approx(head.square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("kernel", ["eager", "cpu"])
def test_a_gradient_of_another_shape_is_refused(kernel):
    p = nn.Parameter(torch.ones(4, 3))
    optimizer = AdamCPR([{"params": [p], "regularize": True}], kernel=kernel)
    p.grad = torch.ones(4, 3)
    p.data = torch.ones(6, 3)
    with pytest.raises(ValueError, match=r"gradient of parameter 0 of group 0 has shape \(4, 3\), not \(6, 3\)"):
        optimizer.step()


# --- changed state and settings


@every_maker
def test_the_next_step_uses_a_lambda_that_was_set_by_hand(make):
    model = network()
    optimizer = make(model, kappa_init_method="dependent", kappa_init_param=0.9, kappa_update=0.1)
    train(model, optimizer, 5)
    weight = model[0].weight
    assert optimizer.state[weight]["lagmul"] > 0
    kappa, R = optimizer.state[weight]["kappa"].item(), weight.square().mean().item()
    optimizer.state[weight]["lagmul"] = torch.zeros(())
    train(model, optimizer, 1, seed=9)
    assert optimizer.state[weight]["lagmul"].item() == pytest.approx(max(0.0, 0.1 * (R - kappa)), rel=1e-4)


@every_maker
def test_a_group_that_is_no_longer_regularized_is_not_pulled(make):
    model = network()
    optimizer = make(model, kappa_init_method="dependent", kappa_init_param=0.5)
    train(model, optimizer, 3)
    optimizer.param_groups[0]["regularize"] = False
    twin, twins = copy.deepcopy((model, optimizer))
    for group in twins.param_groups:
        group["regularize"] = False
    plain = torch.optim.SGD(twin.parameters(), lr=1e-2, momentum=0.9)
    if isinstance(optimizer, CPR):
        plain.state.update({p: twins.optimizer.state[p] for p in twin.parameters()})
    else:
        plain = torch.optim.Adam(twin.parameters(), lr=1e-2, foreach=False)
        plain.state.update({p: dict(twins.state[p]) for p in twin.parameters()})
    train(model, optimizer, 5, seed=1)
    train(twin, plain, 5, seed=1)
    assert all((a - b).abs().max() <= 1e-6 for a, b in zip(weights(model), weights(twin), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate_at": "after"},
        {"kernel": "eager"},
        {"adaptive": "latched"},
        {"adaptive": "transition"},
        {"safeguard": False},
        {"kappa_update": 0.25},
        {"amsgrad": True},
        {"maximize": True},
        {"reg_by_lr": True},
        {"betas": (0.5, 0.9)},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_a_setting_changed_during_training_applies_from_the_next_step(change):
    """Compare with a checkpoint of that moment, loaded into an optimizer with the new setting."""
    options = {"kappa_init_method": "dependent", "kappa_init_param": 0.9}
    model = network()
    optimizer = MAKERS["cpu"](model, **options)
    train(model, optimizer, 5)
    twin = copy.deepcopy(model)
    other = MAKERS["cpu"](twin, **options)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        group |= change
    other.load_state_dict(saved)
    for group in optimizer.param_groups:
        group |= change
    train(model, optimizer, 5, seed=1)
    train(twin, other, 5, seed=1)
    assert same(weights(model), weights(twin))
    unchanged, third = network(), None
    third = MAKERS["cpu"](unchanged, **options)
    train(unchanged, third, 5)
    train(unchanged, third, 5, seed=1)
    if not {"kernel", "adaptive", "safeguard"} & set(change):  # these make no difference here
        assert not same(weights(model), weights(unchanged))


@every_maker
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reg_function": "l1"}, r"reg_function was changed from 'l2' to 'l1' while bounds are in force"),
        ({"kappa_init_method": "warm_start", "kappa_init_param": 5}, "kappa_init_method was changed"),
        ({"kappa_init_param": 3.0}, r"kappa_init_param was changed from 1\.05 to 3\.0"),
        ({"weight_decay": 0.1}, r"weight_decay=0\.1 .*CPR replaces weight decay"),
        ({"evaluate_at": "later"}, "evaluate_at='later' is unknown"),
        ({"regularize": "no"}, "regularize='no' must be True or False"),
        ({"kappa_update": "1"}, "kappa_update='1' must be"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_change_that_cannot_take_effect_is_refused(make, change, message):
    model = network()
    optimizer = make(model, **BOUND)
    train(model, optimizer, 2)
    before = weights(model)
    optimizer.param_groups[0] |= change
    with pytest.raises(ValueError, match=message):
        train(model, optimizer, 1)
    assert same(weights(model), before)


def test_a_setting_changed_before_a_refused_step_applies_from_the_next_step():
    ends = []
    for refused in (False, True):
        model = network()
        optimizer = MAKERS["cpu"](model, kappa_init_method="dependent", kappa_init_param=0.9)
        train(model, optimizer, 3)
        optimizer.param_groups[0]["evaluate_at"] = "after"
        if refused:
            moment = optimizer.state[model[0].weight]["exp_avg"]
            optimizer.state[model[0].weight]["exp_avg"] = torch.zeros(2, 2)
            with pytest.raises(ValueError, match=r"exp_avg of 0\.weight has shape"):
                train(model, optimizer, 1, seed=1)
            optimizer.state[model[0].weight]["exp_avg"] = moment
        train(model, optimizer, 3, seed=1)
        ends.append(weights(model))
    assert same(*ends)


# --- torch.distributed.checkpoint makes state with a step of lr 0 and zero gradients


@every_maker
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_step_that_only_makes_state_changes_nothing_and_is_not_counted(make, lr):
    options = {"kappa_init_method": "dependent", "kappa_init_param": 0.5}  # this would pull at once
    ends = []
    for makes_state in (False, True):
        model = network()
        optimizer = make(model, **options)
        if makes_state:
            before, lrs = weights(model), [group["lr"] for group in optimizer.param_groups]
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            assert same(weights(model), before)
            assert optimizer.state[model[0].weight]["kappa"].item() == pytest.approx(
                0.5 * before[0].square().mean().item(), rel=1e-6
            )
            for group, value in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = value
        train(model, optimizer, 3)
        ends.append(weights(model))
    assert same(*ends)


def test_a_warm_up_that_starts_at_lr_0_is_algorithm_1():
    model = network()
    optimizer = AdamCPR(model, lr=0.0, kappa_init_method="dependent", kappa_init_param=0.9, kernel="eager")
    R = model[0].weight.square().mean().item()
    before = model[0].weight.detach().clone()
    train(model, optimizer, 1)
    assert torch.allclose(model[0].weight, (1 - 2 * (R - 0.9 * R)) * before, rtol=1e-5)


# --- numbers that are not finite


@pytest.mark.parametrize("kernel", ["eager", "cpu", "triton", "wrapper"])
@pytest.mark.parametrize("measure", ["l2", "l1", "huber", "std"])
@pytest.mark.parametrize("method", ["warm_start", "inflection_point", "dependent"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_leaves_lambda_kappa_and_samples_alone(kernel, measure, method, value):
    p = nn.Parameter(0.1 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    bound = {
        "kappa_init_method": method,
        "kappa_init_param": {"warm_start": 8, "dependent": 0.9}.get(method),
        "reg_step_size": 2,
    }
    groups = [{"params": [p], "regularize": True}]
    options = {"reg_function": measure, "adaptive": "latched", **bound}
    if kernel == "wrapper":
        optimizer: Optimizer = CPR(torch.optim.SGD(groups, lr=1e-2), **options)
    else:
        optimizer = AdamCPR(groups, lr=1e-2, kernel=kernel, **options)
    for _ in range(7):
        p.grad = -p.detach().sign()
        optimizer.step()
    good, state = p.detach().clone(), optimizer.state[p]
    with torch.no_grad():
        p[0, 0] = value
    before = {name: state[name].clone() for name in cpr.bounds.STATE if name in state}
    p.grad = torch.zeros_like(p)
    optimizer.step()  # the eighth step: the warm start ends, and R is sampled
    assert {name: state[name] for name in before} == before
    with torch.no_grad():
        p.copy_(good)
    for name in ("exp_avg", "exp_avg_sq"):
        if name in state:
            state[name].zero_()
    for _ in range(3):
        p.grad = -p.detach().sign()
        optimizer.step()
    assert p.isfinite().all() and p.abs().max() > 0.05
    assert state["kappa"].isfinite() and state["lagmul"].isfinite()
    assert bool(state["kappa_set"]) or method == "inflection_point"


# --- parameters that are not bounded or not trained


@every_maker
def test_a_group_that_does_not_say_whether_it_is_regularized_is_refused(make):
    model, head = network(), nn.Linear(10, 3)
    optimizer = make(model, **BOUND)
    with pytest.raises(ValueError, match="says neither regularize=True nor regularize=False"):
        optimizer.add_param_group({"params": head.parameters()})
    train(model, optimizer, 2)
    groups = len(optimizer.param_groups)
    optimizer.add_param_group({"params": head})  # a module is split by the constructor's rules
    assert [group["regularize"] for group in optimizer.param_groups[groups:]] == [True, False]
    before = head.weight.detach().clone()
    head.weight.grad = torch.ones_like(head.weight)
    optimizer.step()
    assert not torch.equal(head.weight, before)
    assert optimizer.state[head.weight]["kappa"].item() == pytest.approx(1.05 * before.square().mean().item(), rel=1e-5)
    assert "kappa" not in optimizer.state[head.bias]


@every_maker
def test_a_layer_that_is_unfrozen_later_is_trained_and_bounded(make):
    model = network()
    model[0].requires_grad_(False)
    optimizer = make(model, **BOUND)
    before = weights(model)
    train(model, optimizer, 3)
    assert torch.equal(model[0].weight, before[0]) and model[0].weight not in optimizer.state
    model[0].requires_grad_(True)
    train(model, optimizer, 30)
    assert not torch.equal(model[0].weight, before[0])
    assert optimizer.state[model[0].weight]["kappa"].item() == pytest.approx(
        1.05 * before[0].square().mean().item(), rel=1e-5
    )


def test_a_checkpoint_of_groups_without_frozen_parameters_can_be_resumed():
    model = network()
    model[0].requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    old = AdamCPR(
        [
            {"params": [p for p in trained if p.ndim == 2], "regularize": True},
            {"params": [trained[1]], "regularize": False},
        ],
        lr=1e-2,
        **BOUND,
    )
    train(model, old, 5)
    twin = copy.deepcopy(model)
    new = AdamCPR(twin, lr=1e-2, **BOUND)  # its groups have the frozen layer too
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    train(model, old, 5, seed=1)
    train(twin, new, 5, seed=1)
    assert same(weights(model), weights(twin))


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "ds_id"])
def test_a_flat_shard_is_recognized_and_refused(mark):
    flat = nn.Parameter(torch.ones(100))
    setattr(flat, mark, True)
    with pytest.raises(ValueError, match=r"flat shard .*fully_shard"):
        AdamCPR([{"params": [flat], "regularize": True}])
    AdamCPR([{"params": [flat], "regularize": False}, {"params": [nn.Parameter(torch.ones(2, 2))], "regularize": True}])


def test_an_empty_regularized_group_is_accepted():
    bias = nn.Parameter(torch.zeros(3))
    optimizer = AdamCPR([{"params": [], "regularize": True}, {"params": [bias], "regularize": False}], lr=0.5)
    bias.grad = torch.ones(3)
    optimizer.step()
    assert torch.allclose(bias, torch.full((3,), -0.5))


# --- arguments


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
def test_flags_of_torch_s_optimizers_are_accepted_and_change_nothing(flag):
    ends = []
    for options in ({}, {flag: True}, {flag: False}):
        model = network()
        train(model, AdamCPR(model, lr=1e-2, **BOUND, **options), 3)
        ends.append(weights(model))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])


def test_unsupported_arguments_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="differentiable=True is not supported"):
        AdamCPR(network(), differentiable=True)
    with pytest.raises(ValueError, match=r"weight_decay=0\.1 with a model: CPR replaces weight decay"):
        AdamCPR(network(), weight_decay=0.1)
    with pytest.raises(ValueError, match=r"kappa_update=0 must be a number > 0"):
        AdamCPR(network(), kappa_update=0)
    with pytest.raises(ValueError, match="LBFGS evaluates its closure several times"):
        CPR(torch.optim.LBFGS([nn.Parameter(torch.ones(2, 2))]))


def test_the_weight_decay_of_a_factory_decides_which_groups_are_regularized():
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = AdamCPR([{"params": [a], "weight_decay": 0.05}, {"params": [b], "weight_decay": 0.0}], weight_decay=0.0)
    assert [group["regularize"] for group in optimizer.param_groups] == [True, False]
    optimizer = AdamCPR([{"params": [a]}, {"params": [b], "weight_decay": 0.0}], weight_decay=0.05)
    assert [group["regularize"] for group in optimizer.param_groups] == [True, False]
    assert all(group.get("weight_decay", 0) == 0 for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9,)}, r"betas=\(0\.9,\) must be two numbers"),
        ({"betas": 0.9}, r"betas=0\.9 must be two numbers"),
        ({"betas": ("0.9", 0.99)}, "betas=.* must be two numbers"),
        ({"lr": "1e-3"}, "lr='1e-3' must be a number >= 0"),
        ({"lr": math.inf}, "lr=inf must be a number >= 0"),
        ({"lr": torch.ones(2)}, r"lr is a tensor of shape \(2,\)"),
        ({"lr": None}, "lr=None must be"),
        ({"eps": "1e-8"}, "eps='1e-8' must be"),
        ({"eps": math.inf}, "eps=inf must be"),
        ({"reg_step_size": "200"}, "reg_step_size='200' must be a whole number of steps >= 1"),
        ({"reg_step_size": True}, "reg_step_size=True must be"),
        ({"reg_ema_decay": "0"}, "reg_ema_decay='0' must be"),
        ({"kappa_init_param": "5", "kappa_init_method": "uniform"}, "kappa_init_param='5' must be a number"),
        ({"kappa_update": None}, "kappa_update=None must be"),
        ({"kernel": None}, "kernel=None is unknown"),
        ({"adaptive": True}, "adaptive=True is unknown"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_an_argument_of_a_wrong_type_or_range_is_refused_with_name_value_and_range(
    options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        AdamCPR(network(), **options)
    if "betas" in options or "lr" in options or "eps" in options:
        with pytest.raises(ValueError, match=message):
            AdamAWD(network(), **options)


# --- a run without any bound


def warned(make: Any, steps: int, **options: Any) -> list[str]:
    """Return the warnings of an optimizer that takes some steps and is deleted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.freeze()  # collects only what is made below, which saves half a second
        model = network()
        optimizer = make(model, **options)
        train(model, optimizer, steps)
        del optimizer
        gc.collect()
        gc.unfreeze()
    return [str(warning.message) for warning in caught if "no matrix got a bound" in str(warning.message)]


@every_maker
def test_a_run_without_any_bound_ends_with_one_warning_and_its_remedy(make):
    (text,) = warned(make, 30)  # the defaults: the inflection point, sampled every 200 steps
    assert "took 30 steps" in text and "after 800 steps at the earliest" in text and "tenth of the lr warm-up" in text
    (text,) = warned(make, 30, kappa_init_method="warm_start", kappa_init_param=100)
    assert "kappa_init_param=100" in text
    assert warned(make, 30, kappa_init_method="warm_start", kappa_init_param=10) == []
    assert warned(make, 30, kappa_init_method="uniform", kappa_init_param=1.0) == []
    assert warned(make, 5) == []  # a few steps give no warning


# --- snapshots, repr and names


@every_maker
def test_snapshot_gives_r_kappa_and_lambda_by_name(make):
    model = network()
    optimizer = make(model, kappa_init_method="warm_start", kappa_init_param=2)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    rows = cpr.snapshot(optimizer, model)
    assert list(rows) == ["0.weight", "2.weight"] and not rows["0.weight"].is_set
    train(model, optimizer, 10)
    rows = cpr.snapshot(optimizer, model)
    for name, p in (("0.weight", model[0].weight), ("2.weight", model[2].weight)):
        state = optimizer.state[p]
        assert rows[name] == (
            pytest.approx(p.square().mean().item(), rel=1e-6),
            state["kappa"].item(),
            state["lagmul"].item(),
        )
        assert rows[name].is_set and rows[name].is_active == (state["lagmul"].item() > 0)


def test_repr_says_what_is_bounded_and_why_not():
    text = repr(AdamCPR(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Embedding(5, 2))))
    assert "bounded, 1 parameters, 12 elements\n    0.weight (3, 4)" in text
    assert "bias: 0.bias (3,)" in text
    assert "normalization layer LayerNorm: 1.weight (3,), 1.bias (3,)" in text
    assert "embedding (reg_embedding=False): 2.weight (5, 2)" in text


def test_names_survive_copies():
    optimizer = AdamCPR(network())
    assert list(cpr.snapshot(copy.deepcopy(optimizer))) == ["0.weight", "2.weight"]


def test_hooks_of_the_wrapper_fire_once_in_torch_s_order():
    model = network()
    optimizer = CPR(torch.optim.SGD(regularized_groups(model), lr=1e-2), **BOUND)
    heard: list[str] = []
    note = lambda text: lambda *_: heard.append(text)  # noqa: E731
    handles = [
        register_optimizer_step_pre_hook(note("global")),
        optimizer.register_step_pre_hook(note("before")),
        optimizer.optimizer.register_step_pre_hook(note("inside")),
        optimizer.register_step_post_hook(note("after")),
        optimizer.register_state_dict_pre_hook(note("saving")),
        optimizer.register_state_dict_post_hook(lambda _, state: state | {"mine": 1}),
        optimizer.register_load_state_dict_pre_hook(lambda _, state: heard.append(f"loading {state.pop('mine')}")),
        optimizer.register_load_state_dict_post_hook(lambda o: heard.append(f"loaded {len(o.state)}")),
    ]
    train(model, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    for handle in handles:
        handle.remove()
    assert heard == ["global", "before", "inside", "after", "saving", "loading 1", "loaded 2"]


# --- other mistakes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bound", [("warm_start", 3), ("inflection_point", None)])
@pytest.mark.parametrize("kernel", ["eager", "cpu", "wrapper"])
def test_a_bound_counts_changes_of_a_few_elements_through_data(kernel, bound, dtype):
    p = nn.Parameter((0.1 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).to(dtype))
    groups = [{"params": [p], "regularize": True}]
    options = {"kappa_init_method": bound[0], "kappa_init_param": bound[1], "reg_step_size": 1}
    optimizer = (
        CPR(torch.optim.SGD(groups, lr=1e-3), **options)
        if kernel == "wrapper"
        else AdamCPR(groups, 1e-3, kernel=kernel, **options)
    )
    steps = 0
    while not (steps and optimizer.state[p]["kappa_set"]):
        if steps % 4 == 3:
            p.data[[5, 6]] = 2.0 + steps
        R = p.detach().double().square().mean().item()
        p.grad = torch.ones_like(p)
        optimizer.step()
        steps += 1
    assert optimizer.state[p]["kappa"].item() == pytest.approx(R, rel=1e-5)


def test_the_groups_passed_in_are_not_changed():
    model = network()
    groups = [{"params": [model[0].weight], "weight_decay": 0.1}, {"params": [model[0].bias], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.1)
    first = AdamCPR(groups, lr=0.2, kappa_init_method="dependent", kappa_init_param=0.5)
    second = AdamCPR(groups, lr=0.3, kappa_init_method="uniform", kappa_init_param=2.0)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    assert first.param_groups[0]["kappa_init_param"] == 0.5 and second.param_groups[0]["kappa_init_param"] == 2.0
    groups = regularized_groups(model)
    AdamCPR(groups, **NO_BOUND)
    assert all(set(group) == {"params", "regularize"} for group in groups)


def test_an_optimizer_that_bounds_already_or_copies_the_weights_is_refused():
    timm_optim = pytest.importorskip("timm.optim")
    groups = lambda: regularized_groups(network())  # noqa: E731
    sgd = torch.optim.SGD(groups(), lr=0.1)
    CPR(sgd, **BOUND)
    with pytest.raises(ValueError, match="this SGD has been in a CPR before"):
        CPR(sgd, **NO_BOUND)
    with pytest.raises(ValueError, match="AdamCPR bounds its matrices already"):
        CPR(AdamCPR(groups()), **BOUND)
    with pytest.raises(ValueError, match="CPR bounds its matrices already"):
        CPR(CPR(torch.optim.SGD(groups(), lr=0.1)), **BOUND)
    with pytest.raises(ValueError, match="MADGRAD recomputes the weights"):
        CPR(timm_optim.MADGRAD(groups()), **BOUND)


@every_maker
def test_the_next_step_uses_a_replaced_group(make):
    model = network()
    optimizer = make(model, **BOUND)
    train(model, optimizer, 2)
    optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 0.0}
    before = weights(model)
    train(model, optimizer, 1)
    after = weights(model)
    assert not torch.equal(after[0], before[0]) and not torch.equal(after[2], before[2])
    assert torch.equal(after[1], before[1]) and torch.equal(after[3], before[3])  # the biases


def test_snapshot_has_a_row_for_every_matrix_when_names_collide():
    optimizer = AdamCPR(network(), **BOUND)
    layers = nn.Linear(8, 8), nn.Linear(8, 8)
    for layer in layers:
        optimizer.add_param_group({"params": layer})
    rows = list(cpr.snapshot(optimizer).values())
    assert [row.R for row in rows[2:]] == [
        pytest.approx(layer.weight.square().mean().item(), rel=1e-6) for layer in layers
    ]


@every_maker
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kappa_update": -1.0}, r"kappa_update=-1\.0 must be"),
        ({"reg_function": "zz"}, "reg_function='zz' is unknown"),
        ({"kappa_init_method": "x"}, "kappa_init_method='x' is unknown"),
        ({"safeguard": 1}, "safeguard=1 must be True or False"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_settings_are_checked_when_they_are_loaded_and_before_the_first_step(make, change, message):
    model = network()
    optimizer = make(model, **BOUND)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0] |= change
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    optimizer.param_groups[0] |= change
    with pytest.raises(ValueError, match=message):
        train(model, optimizer, 1)


def test_adam_s_settings_and_state_are_checked_when_they_are_loaded():
    model = network()
    optimizer = AdamCPR(model, **BOUND)
    train(model, optimizer, 1)
    for name, value in (("betas", (3, 3)), ("eps", -1.0), ("lr", -1.0)):
        state = copy.deepcopy(optimizer.state_dict())
        state["param_groups"][0][name] = value
        with pytest.raises(ValueError, match=f"{name}="):
            optimizer.load_state_dict(state)
    state = copy.deepcopy(optimizer.state_dict())
    del state["state"][0]["exp_avg"]
    with pytest.raises(ValueError, match="parameter 0 has no exp_avg"):
        optimizer.load_state_dict(state)
    sgd = torch.optim.SGD(regularized_groups(model), lr=0.1, momentum=0.9)
    train(model, sgd, 1)
    with pytest.raises(ValueError, match=r"has no step\. AdamCPR can only load the state of an Adam"):
        optimizer.load_state_dict(sgd.state_dict())


def test_a_bound_that_is_0_in_float32_is_refused():
    with pytest.raises(ValueError, match=r"kappa_init_param=1e-60 must be a number > 0 \(in float32\)"):
        AdamCPR(network(), kappa_init_method="uniform", kappa_init_param=1e-60)


def test_a_group_with_a_module_may_have_a_weight_decay_too():
    layer = nn.Linear(4, 4)
    optimizer = AdamCPR([{"params": layer, "weight_decay": 0.1, "lr": 0.5}])
    assert [(group["params"], group["regularize"], group["lr"]) for group in optimizer.param_groups] == [
        ([layer.weight], True, 0.5),
        ([layer.bias], False, 0.5),
    ]


def test_the_state_of_the_other_class_is_refused_and_no_bound_is_lost():
    def matrix() -> nn.Parameter:
        return nn.Parameter(torch.ones(4, 4))

    def groups(p: nn.Parameter) -> list[dict[str, Any]]:
        return [{"params": [p], "regularize": True}]

    def stepped(optimizer: Optimizer, p: nn.Parameter) -> Optimizer:
        p.grad = torch.ones(4, 4)
        optimizer.step()
        return optimizer

    bound = {"kappa_init_method": "dependent", "kappa_init_param": 1.0}
    p, q = matrix(), matrix()
    one = stepped(AdamCPR(groups(p), **bound), p)
    other = stepped(CPR(torch.optim.Adam(groups(q)), **bound), q)
    with pytest.raises(
        ValueError, match=r"AdamCPR saved this state, and CPR would lose its bounds\. Load it into AdamCPR"
    ):
        other.load_state_dict(one.state_dict())
    with pytest.raises(
        ValueError, match=r"^CPR saved this state, and AdamCPR would lose its bounds\. Load it into CPR"
    ):
        one.load_state_dict(other.state_dict())


def test_passing_a_model_for_an_optimizer_or_parameters_for_a_model_is_refused():
    model = network()
    with pytest.raises(TypeError, match=r"CPR wraps an optimizer, .* not Sequential"):
        CPR(model)
    for use in (cpr.describe, regularized_groups, cpr.regularized_names):
        with pytest.raises(TypeError, match="pass the model itself, not generator"):
            use(model.parameters())
