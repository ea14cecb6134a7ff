"""AdamCPR and CPR pass timm's optimizer tests and work with its factory, schedulers and EMA."""

import copy
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cpr
from cpr import CPR, AdamCPR

pytest.importorskip("timm")
import timm
from timm.optim import (
    Lookahead,
    create_optimizer_v2,
    optimizer_kwargs,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.optim._optim_factory import OptimInfo, default_registry
from timm.scheduler import CosineLRScheduler, StepLRScheduler

torch.set_num_threads(1)

NO_BOUND = {"kappa_init_method": "uniform", "kappa_init_param": 1e9}
ACTING = {"kappa_init_method": "dependent", "kappa_init_param": 1.0}
Make = Callable[..., torch.optim.Optimizer]


def around_sgd(groups: Any, lr: float = 1e-3, weight_decay: float = 0, **bound: Any) -> CPR:
    return CPR(torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=weight_decay), **bound)


KINDS: dict[str, Make] = {"AdamCPR": AdamCPR, "CPR around SGD": around_sgd}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@pytest.fixture
def registered() -> Iterator[None]:
    """Register AdamCPR and CPR around SGD with timm, as a user does."""
    default_registry.register(OptimInfo("adamcpr", AdamCPR, "Adam with bounds", has_betas=True, defaults=ACTING))
    default_registry.register(OptimInfo("sgdcpr", around_sgd, "SGD with bounds", has_eps=False, defaults=ACTING))
    yield
    for name in ("adamcpr", "sgdcpr"):
        del default_registry._optimizers[name]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vit() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}
    return timm.create_model("vit_tiny_patch16_224", **sizes)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, schedule: Any = None) -> float:
    """Train on a fixed classification problem and return the last loss."""
    images, classes = numbers(8, 3, 16, 16, seed=5), torch.arange(8) % 4
    for t in steps:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), classes)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step(t + 1)
    return loss.item()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def multipliers(optimizer: torch.optim.Optimizer) -> list[float]:
    groups = [group for group in optimizer.param_groups if group["regularize"]]
    return [float(optimizer.state[p]["lagmul"]) for group in groups for p in group["params"]]


def bounded_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    chosen = {id(p) for group in optimizer.param_groups if group["regularize"] for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


# --- timm's test_optim.py


def linear(contiguous: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Parameter, nn.Parameter, Tensor]:
    weight, bias, inputs = (numbers(*shape, seed=s).to(dtype) for s, shape in enumerate([(10, 5), (10,), (5,)]))
    if not contiguous:
        weight, bias = (torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0] for t in (weight, bias))
    return nn.Parameter(weight), nn.Parameter(bias), inputs


def closure_of(optimizer: torch.optim.Optimizer, weight: Tensor, bias: Tensor, inputs: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight.mv(inputs) + bias).square().sum()
        loss.backward()
        return loss

    return closure


GROUPS: dict[str, Callable[[Tensor, Tensor], tuple[Any, dict[str, Any]]]] = {
    "weight decay groups": lambda w, b: (
        [{"params": [w], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}],
        {},
    ),
    "lr of the bias": lambda w, b: (
        [{"params": [w], "regularize": True}, {"params": [b], "regularize": False, "lr": 3e-3}],
        {},
    ),
    "weight decay of all": lambda w, b: ([w, b], {"weight_decay": 0.1}),
    "one group": lambda w, b: ([{"params": [w, b], "regularize": True}], {}),
}


@every_kind
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "with gaps"])
def test_the_basic_cases_descend_to_the_same_numbers_in_every_layout(make, groups, contiguous):
    weight, bias, inputs = linear(contiguous)
    given, options = groups(weight, bias)
    optimizer = make(given, lr=1e-3, **options, **ACTING)
    schedule = StepLRScheduler(optimizer, decay_t=40, decay_rate=0.5)
    closure = closure_of(optimizer, weight, bias, inputs)
    first = closure().item()
    for t in range(80):
        optimizer.step(closure)
        schedule.step(t + 1)
    assert closure().item() < 0.98 * first
    plain_weight, plain_bias, _ = linear()
    given, options = groups(plain_weight, plain_bias)
    plain = make(given, lr=1e-3, **options, **ACTING)
    schedule = StepLRScheduler(plain, decay_t=40, decay_rate=0.5)
    closure = closure_of(plain, plain_weight, plain_bias, inputs)
    for t in range(80):
        plain.step(closure)
        schedule.step(t + 1)
    torch.testing.assert_close(weight, plain_weight, rtol=0, atol=3e-6)
    torch.testing.assert_close(bias, plain_bias, rtol=0, atol=3e-6)


@every_kind
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "with gaps"])
def test_a_state_loads_after_twenty_steps_and_twenty_more_are_the_same(make, contiguous):
    weight, bias, inputs = linear(contiguous)
    groups = GROUPS["weight decay groups"]
    optimizer = make(groups(weight, bias)[0], lr=1e-3, **ACTING)
    closure = closure_of(optimizer, weight, bias, inputs)
    for _ in range(20):
        optimizer.step(closure)
    again, free, _ = linear(contiguous)
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    loaded = make(groups(again, free)[0], lr=1e-3, **ACTING)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert loaded.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    continued = closure_of(loaded, again, free, inputs)
    for _ in range(20):
        optimizer.step(closure)
        loaded.step(continued)
        assert torch.equal(weight, again) and torch.equal(bias, free)
    assert multipliers(loaded) == multipliers(optimizer)


@every_kind
@pytest.mark.parametrize(
    ("saved", "cast"), [(torch.float64, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float64)]
)
def test_a_state_can_be_resumed_after_parameters_are_cast(make, saved, cast):
    weight, bias, inputs = linear(dtype=saved)
    groups = GROUPS["weight decay groups"]
    optimizer = make(groups(weight, bias)[0], lr=1e-3, **ACTING)
    closure = closure_of(optimizer, weight, bias, inputs)
    for _ in range(20):
        optimizer.step(closure)
    again, free = nn.Parameter(weight.detach().to(cast)), nn.Parameter(bias.detach().to(cast))
    loaded = make(groups(again, free)[0], lr=1e-3, **ACTING)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    continued = closure_of(loaded, again, free, inputs.to(cast))
    before = weight.detach().clone()
    for _ in range(10):
        optimizer.step(closure)
        loaded.step(continued)
    moved = (weight.detach() - before).abs().max()
    apart = (again.detach().to(saved) - weight.detach()).abs().max()
    assert apart < (0.05 if cast is torch.bfloat16 else 1e-5) * max(moved, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_kind
def test_a_state_can_be_resumed_after_parameters_are_moved_to_the_gpu(make):
    weight, bias, inputs = linear()
    groups = GROUPS["weight decay groups"]
    optimizer = make(groups(weight, bias)[0], lr=1e-3, **ACTING)
    closure = closure_of(optimizer, weight, bias, inputs)
    for _ in range(20):
        optimizer.step(closure)
    again, free = nn.Parameter(weight.detach().cuda()), nn.Parameter(bias.detach().cuda())
    loaded = make(groups(again, free)[0], lr=1e-3, **ACTING)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    continued = closure_of(loaded, again, free, inputs.cuda())
    for _ in range(10):
        optimizer.step(closure)
        loaded.step(continued)
    torch.testing.assert_close(again.cpu(), weight, rtol=0, atol=1e-5)


def rosenbrock(point: Tensor) -> Tensor:
    x, y = point.flatten()
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


QUARTER = {"kappa_init_method": "uniform", "kappa_init_param": 0.25}


@pytest.mark.parametrize(("options", "reached"), [(NO_BOUND, 0.05), (QUARTER, None)])
def test_rosenbrock_s_minimum_or_the_nearest_point_on_the_bound_is_found(options, reached):
    point = nn.Parameter(torch.tensor([[1.5, 1.5]]))
    optimizer = AdamCPR([{"params": [point], "regularize": True}], lr=2e-2, betas=(0.9, 0.99), **options)
    for _ in range(1500):
        optimizer.zero_grad()
        rosenbrock(point).backward()
        optimizer.step()
    if reached is not None:
        assert (point.detach() - 1).norm() < reached
        return
    assert point.detach().square().mean() == pytest.approx(0.25, rel=0.03)
    angles = torch.linspace(0, torch.pi / 2, 2001)
    circle = 0.5**0.5 * torch.stack([angles.cos(), angles.sin()], 1)
    best = min(rosenbrock(p).item() for p in circle)
    assert rosenbrock(point.detach()).item() == pytest.approx(best, rel=0.1)


@every_kind
def test_a_small_regression_is_learned_within_its_bounds(make):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    inputs = numbers(64, 2, seed=3)
    targets = inputs.prod(1, keepdim=True)
    bound = {"kappa_init_method": "dependent", "kappa_init_param": 2.0}
    optimizer = make(cpr.regularized_groups(model), lr=1e-2, **bound)
    starts = {name: p.detach().square().mean().item() for name, p in model.named_parameters() if p.ndim == 2}
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        losses.append(loss := (model(inputs) - targets).square().mean())
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    found = cpr.snapshot(optimizer, model)
    for name, start in starts.items():
        assert found[name].kappa == pytest.approx(2 * start, rel=1e-5)
        assert found[name].R <= 1.05 * found[name].kappa


# --- Lookahead


@every_kind
def test_lookahead_equals_lookahead_written_out(make):
    weight, bias, inputs = linear()
    plain_weight, plain_bias, _ = linear()
    groups = GROUPS["weight decay groups"]
    optimizer = Lookahead(make(groups(weight, bias)[0], lr=1e-2, **ACTING), alpha=0.5, k=3)
    inner = make(groups(plain_weight, plain_bias)[0], lr=1e-2, **ACTING)
    closure, plain = closure_of(optimizer, weight, bias, inputs), closure_of(inner, plain_weight, plain_bias, inputs)
    slow: dict[Tensor, Tensor] = {}
    for t in range(1, 16):
        optimizer.step(closure)
        inner.step(plain)
        if t % 3 == 0:
            for p in (plain_weight, plain_bias):  # timm's slow weights start at the first exchange
                slow[p] = p.detach().clone() if p not in slow else slow[p] + 0.5 * (p.detach() - slow[p])
                p.data.copy_(slow[p])
        torch.testing.assert_close(weight, plain_weight, rtol=0, atol=1e-6)
    assert multipliers(optimizer._base_optimizer) == pytest.approx(multipliers(inner), abs=1e-6)


@every_kind
def test_a_loaded_lookahead_continues_to_the_bit(make):
    weight, bias, inputs = linear()
    groups = GROUPS["weight decay groups"]
    optimizer = Lookahead(make(groups(weight, bias)[0], lr=1e-2, **ACTING))
    closure = closure_of(optimizer, weight, bias, inputs)
    for _ in range(10):
        optimizer.step(closure)
    again, free, _ = linear()
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    loaded = Lookahead(make(groups(again, free)[0], lr=1e-2, **ACTING))
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    continued = closure_of(loaded, again, free, inputs)
    for _ in range(10):
        optimizer.step(closure)
        loaded.step(continued)
    assert torch.equal(weight, again) and torch.equal(bias, free)
    assert multipliers(optimizer._base_optimizer) == multipliers(loaded._base_optimizer)


def test_a_snapshot_looks_into_lookahead():
    model = vit()
    optimizer = Lookahead(AdamCPR(model, lr=1e-2, **ACTING))
    train(model, optimizer, range(3))
    found = cpr.snapshot(optimizer)
    assert found["head.weight"].R == pytest.approx(model.head.weight.detach().square().mean().item(), rel=1e-5)


# --- the factory


def test_the_factory_with_a_weight_decay_bounds_what_it_would_decay(registered):
    model = vit()
    starts = {name: p.detach().square().mean().item() for name, p in model.named_parameters()}
    optimizer = create_optimizer_v2(model, "adamcpr", lr=3e-3, weight_decay=0.05)
    decayed = {name for name, p in model.named_parameters() if p.ndim > 1 and name not in model.no_weight_decay()}
    assert bounded_names(model, optimizer) == decayed == bounded_names(model, AdamCPR(model))
    assert "pos_embed" not in decayed and "head.weight" in decayed
    first = train(model, optimizer, range(1))
    assert train(model, optimizer, range(30)) < 0.8 * first
    sizes = {name: p.detach().square().mean().item() for name, p in model.named_parameters()}
    for name, bound in cpr.snapshot(optimizer, model).items():
        assert bound.kappa == pytest.approx(starts[name], rel=1e-4)
        assert bound.R == pytest.approx(sizes[name], rel=1e-4)
        assert bound.R <= 4 * bound.kappa
    assert max(multipliers(optimizer)) > 0
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_the_factory_without_a_weight_decay_is_refused_with_what_to_do(registered):
    message = r"no parameter is regularized.*cpr\.regularized_groups\(model\).*weight_decay is not 0"
    with pytest.raises(ValueError, match=message):
        create_optimizer_v2(vit(), "adamcpr", lr=3e-3)


def test_the_factory_takes_cpr_s_groups_as_its_group_function(registered):
    model, plain = vit(), vit()
    optimizer = create_optimizer_v2(model, "adamcpr", lr=3e-3, param_group_fn=cpr.regularized_groups)
    assert bounded_names(model, optimizer) == set(cpr.regularized_names(model))
    reference = AdamCPR(plain, lr=3e-3, **ACTING)
    train(model, optimizer, range(8))
    train(plain, reference, range(8))
    assert torch.equal(weights(model), weights(plain))
    assert multipliers(optimizer) == multipliers(reference)


@pytest.mark.parametrize("opt", ["adamcpr", "sgdcpr"])
def test_the_factory_s_optimizer_is_the_one_built_by_hand(registered, opt):
    model, plain = vit(), vit()
    betas = {"betas": [0.8, 0.99]} if opt == "adamcpr" else {}
    optimizer = create_optimizer_v2(model, opt, lr=3e-3, weight_decay=0.05, **betas)
    by_name = dict(plain.named_parameters())
    exempt = {name for name, p in by_name.items() if p.ndim < 2 or name in plain.no_weight_decay()}
    groups = [
        {"params": [p for name, p in by_name.items() if name in exempt], "regularize": False},
        {"params": [p for name, p in by_name.items() if name not in exempt], "regularize": True},
    ]
    by_hand = AdamCPR if opt == "adamcpr" else around_sgd
    reference = by_hand(groups, lr=3e-3, **betas, **ACTING)
    train(model, optimizer, range(10))
    train(plain, reference, range(10))
    assert torch.equal(weights(model), weights(plain))
    assert multipliers(optimizer) == multipliers(reference)


def test_with_a_bound_out_of_reach_the_factory_s_adamcpr_is_its_adamw_without_decay(registered):
    model, plain = vit(), vit()
    ours = create_optimizer_v2(model, "adamcpr", lr=3e-3, weight_decay=0.05, eps=1e-6, **NO_BOUND)
    theirs = create_optimizer_v2(plain, "adamw", lr=3e-3, weight_decay=0.05, eps=1e-6)
    for group in theirs.param_groups:
        group["weight_decay"] = 0.0
    sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in (ours, theirs)]
    assert sizes[0] == sizes[1]
    assert [group["eps"] for group in ours.param_groups] == [1e-6, 1e-6]
    train(model, ours, range(10))
    train(plain, theirs, range(10))
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=2e-5)


def test_parameters_with_a_weight_decay_and_without_timm_s_filter_are_all_bounded(registered):
    model = vit()
    everything = {name for name, _ in model.named_parameters()}
    assert bounded_names(model, create_optimizer_v2(model.parameters(), "adamcpr", weight_decay=0.05)) == everything
    unfiltered = create_optimizer_v2(model, "adamcpr", weight_decay=0.05, filter_bias_and_bn=False)
    assert bounded_names(model, unfiltered) == everything


@pytest.mark.parametrize("opt", ["adamcpr", "sgdcpr"])
def test_layer_decay_s_learning_rates_reach_every_layer(registered, opt):
    """Timm's schedulers multiply by lr_scale. The reference has each group's lr set by hand."""
    model, plain = vit(), vit()
    optimizer = create_optimizer_v2(model, opt, lr=1e-2, weight_decay=0.05, layer_decay=0.5)
    schedule = CosineLRScheduler(optimizer, t_initial=12, warmup_t=3, warmup_lr_init=1e-4)
    reference = KINDS["AdamCPR" if opt == "adamcpr" else "CPR around SGD"](
        param_groups_layer_decay(plain, 0.05, plain.no_weight_decay(), layer_decay=0.5),
        lr=1e-2,
        **ACTING,
    )
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    twin = CosineLRScheduler(other, t_initial=12, warmup_t=3, warmup_lr_init=1e-4)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert sorted(set(scales)) == [0.125, 0.25, 0.5, 1.0]
    bounded = {name for name, p in model.named_parameters() if p.ndim > 1} - {"pos_embed", "cls_token"}
    assert bounded_names(model, optimizer) == bounded
    for t in range(10):
        rate = twin.optimizer.param_groups[0]["lr"]
        for ours, group in zip(optimizer.param_groups, reference.param_groups, strict=True):
            group["lr"] = rate * group["lr_scale"]
            assert ours["lr"] == pytest.approx(group["lr"], rel=1e-12)
        train(model, optimizer, range(t, t + 1), schedule)
        train(plain, reference, range(1))
        twin.step(t + 1)
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)
    assert multipliers(optimizer) == pytest.approx(multipliers(reference), rel=1e-3, abs=1e-7)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    assert [group["lr_scale"] for group in optimizer.param_groups] == scales


def test_timm_s_command_line_arguments_reach_the_optimizer(registered):
    arguments = Namespace(opt="adamcpr", lr=2e-3, weight_decay=0.05, momentum=0.9, opt_eps=1e-6, opt_betas=[0.85, 0.98])
    arguments.opt_args = {"kappa_init_method": "warm_start", "kappa_init_param": 4, "kappa_update": 0.5}
    arguments.opt_foreach = True
    model = vit()
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(arguments))
    for group in optimizer.param_groups:
        assert (group["lr"], group["eps"], group["betas"]) == (2e-3, 1e-6, (0.85, 0.98))
        assert (group["kappa_init_method"], group["kappa_init_param"], group["kappa_update"]) == ("warm_start", 4, 0.5)
    train(model, optimizer, range(4))
    sizes = {name: bound.R for name, bound in cpr.snapshot(optimizer, model).items()}
    train(model, optimizer, range(1))
    kappas = {name: bound.kappa for name, bound in cpr.snapshot(optimizer, model).items()}
    assert kappas == pytest.approx(sizes, rel=1e-5)


@pytest.mark.parametrize("opt", ["lookahead_adamcpr", "lookahead_sgdcpr"])
def test_the_factory_s_lookahead_trains_and_continues_to_the_bit(registered, opt):
    model, again = vit(), vit()
    optimizer = create_optimizer_v2(model, opt, lr=3e-3, weight_decay=0.05)
    train(model, optimizer, range(8))
    again.load_state_dict(model.state_dict())
    loaded = create_optimizer_v2(again, opt, lr=3e-3, weight_decay=0.05)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(8))
    train(again, loaded, range(8))
    assert torch.equal(weights(model), weights(again))
    assert multipliers(optimizer._base_optimizer) == multipliers(loaded._base_optimizer)
    assert max(multipliers(loaded._base_optimizer)) > 0


def in_a_dictionary(model: nn.Module) -> nn.Module:
    return nn.ModuleDict({"net": model})


@pytest.mark.parametrize("wrap", [nn.Sequential, in_a_dictionary])
def test_no_weight_decay_applies_in_a_wrapped_model_too(wrap):
    inner = vit()
    names = {name for name, _ in inner.named_parameters()}
    outer = wrap(inner)
    bounded = bounded_names(outer, AdamCPR(outer))
    assert {name.split(".", 1)[1] for name in bounded} == set(cpr.regularized_names(inner)) < names
    assert not {name for name in bounded if "pos_embed" in name or "cls_token" in name}


@pytest.mark.parametrize("kind", ["weight decay", "layer decay"])
def test_timm_s_group_functions_can_be_used_by_hand(kind):
    model = vit()
    listed = model.no_weight_decay()
    groups = {
        "weight decay": lambda: param_groups_weight_decay(model, 0.05, listed),
        "layer decay": lambda: param_groups_layer_decay(model, 0.05, listed, layer_decay=0.5),
    }[kind]()
    optimizer = AdamCPR(groups, lr=3e-3, **ACTING)
    assert bounded_names(model, optimizer) == set(cpr.regularized_names(model))
    first = train(model, optimizer, range(1))
    assert train(model, optimizer, range(20)) < 0.8 * first
    wrapped = CPR(torch.optim.SGD(groups, lr=1e-2, momentum=0.9), **ACTING)
    assert bounded_names(model, wrapped) == set(cpr.regularized_names(model))
    assert all(group["weight_decay"] == 0 for group in wrapped.optimizer.param_groups)
