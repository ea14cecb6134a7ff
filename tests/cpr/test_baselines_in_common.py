"""All baselines share these rules: groups, state, gradients, arguments and configuration."""

import copy
import math

import pytest
import torch
from baselines import ADAM, DECAYED, METHODS, assert_equal, feed, gradients, small_network, starts, two_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer

from cpr import regularized_groups
from cpr.baselines import AMOS, DecayScheduledAdamW, RescaledAdam
from scripts.cli.common import compose_config
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer

torch.set_num_threads(1)

every_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.parametrize("method", DECAYED)
def test_with_weight_decay_0_it_is_torch_s_adam_to_the_bit(method):
    ours, theirs = starts(torch.float32), starts(torch.float32)
    feed(METHODS[method](two_groups(ours), weight_decay=0.0, **ADAM), ours, gradients())
    feed(torch.optim.Adam(theirs, **ADAM), theirs, gradients())
    assert_equal(ours, theirs)


@pytest.mark.parametrize("method", [*DECAYED, "amos"])
def test_the_decay_acts_only_on_the_regularized_groups(method):
    name = "extra_l2" if method == "amos" else "weight_decay"
    with_decay, without = starts(), starts()
    feed(METHODS[method](two_groups(with_decay)), with_decay, gradients(30))
    feed(METHODS[method](two_groups(without), **{name: 0.0}), without, gradients(30))
    assert [torch.equal(a, b) for a, b in zip(with_decay, without, strict=True)] == [False, False, True]


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(step=st.integers(0, 60))
def test_a_loaded_state_continues_to_the_bit(method, dtype, step, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "saved.pt"
    a = starts(dtype)
    whole = METHODS[method](two_groups(a))
    feed(whole, a, gradients(60)[:step])
    torch.save({"theta": [p.detach() for p in a], "optimizer": whole.state_dict()}, path)
    feed(whole, a, gradients(60)[step:])
    saved = torch.load(path, weights_only=True)
    b = [nn.Parameter(theta) for theta in saved["theta"]]
    continued = METHODS[method](two_groups(b), lr=0.5)
    continued.load_state_dict(saved["optimizer"])
    feed(continued, b, gradients(60)[step:])
    assert_equal(a, b)


@every_method
def test_a_deep_copy_continues_to_the_bit_without_touching_the_original(method):
    a = starts()
    original = METHODS[method](two_groups(a))
    feed(original, a, gradients(40)[:20])
    b, twin = copy.deepcopy((a, original))
    kept = copy.deepcopy(a)
    feed(twin, b, gradients(40)[20:])
    assert_equal(a, kept)
    feed(original, a, gradients(40)[20:])
    assert_equal(a, b)


@every_method
def test_a_state_dict_taken_before_a_step_keeps_its_decay(method):
    parameters = starts()
    optimizer = METHODS[method](two_groups(parameters))
    feed(optimizer, parameters, gradients(5))
    taken = optimizer.state_dict()["param_groups"]
    kept = copy.deepcopy(taken)
    feed(optimizer, parameters, gradients(5))
    assert repr(taken) == repr(kept)


def test_with_bfloat16_parameters_the_scalars_of_awd_and_amos_stay_float32_through_loading():
    for method in ("awd", "awd per tensor", "amos"):
        parameters = starts(torch.bfloat16)
        optimizer = METHODS[method](two_groups(parameters))
        feed(optimizer, parameters, gradients(5))
        for _ in range(2):
            state = optimizer.state[parameters[0]]
            scalars = (
                [state["second_moment"], state["fading"]]
                if method == "amos"
                else optimizer.param_groups[0]["mean_decay"]
            )
            assert {value.dtype for value in scalars} == {torch.float32}
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@every_method
def test_a_parameter_without_a_gradient_is_left_alone_and_changes_nothing_for_the_others(method):
    parameters, fewer = starts(), starts()[:1]
    idle = parameters[1].detach().clone()
    optimizer = METHODS[method](two_groups(parameters))
    alone = METHODS[method]([{"params": fewer, "regularize": True}])
    for step in gradients(20):
        parameters[0].grad, parameters[1].grad = step[0], None
        optimizer.step()
        feed(alone, fewer, [step[:1]])
    assert torch.equal(parameters[1], idle)
    assert torch.equal(parameters[0], fewer[0])
    for parameter in parameters:
        parameter.grad = None
    optimizer.step()


@every_method
def test_a_closure_gives_the_gradients_and_its_loss_is_returned(method):
    ours, reference = starts(), starts()
    optimizer, other = METHODS[method](two_groups(ours)), METHODS[method](two_groups(reference))

    def closure() -> float:
        for parameter, gradient in zip(ours, gradients(1)[0], strict=True):
            parameter.grad = gradient
        assert torch.is_grad_enabled()
        return 17.0

    assert optimizer.step(closure) == 17.0
    feed(other, reference, gradients(1))
    assert_equal(ours, reference)


@pytest.mark.parametrize("method", [*METHODS, "rescaling"])
def test_step_hooks_run_once_a_step_even_after_a_plain_adam_was_made(method):
    torch.optim.Adam([nn.Parameter(torch.ones(1))])
    model, calls = small_network(), []
    optimizer = RescaledAdam(model) if method == "rescaling" else METHODS[method](model)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    model(torch.ones(2, 4, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert calls == ["before", "after"]


@every_method
def test_a_model_is_split_into_its_regularized_groups(method):
    a, b = small_network(), small_network()
    from_model, from_groups = METHODS[method](a), METHODS[method](regularized_groups(b))
    for network, optimizer in ((a, from_model), (b, from_groups)):
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.eye(4, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert [group["regularize"] for group in from_model.param_groups] == [True, False]
    assert sum(p is a[0].weight or p is a[3].weight for p in from_model.param_groups[0]["params"]) == 2


@pytest.mark.parametrize("method", DECAYED)
def test_a_group_s_own_weight_decay_overrides_the_optimizer_s_and_makes_it_regularized(method):
    named, unnamed, late = starts(), starts(), starts()
    first = METHODS[method](
        [{"params": named[:2], "regularize": True}, {"params": named[2:], "regularize": False}], weight_decay=0.125
    )
    second = METHODS[method](
        [{"params": unnamed[:2], "weight_decay": 0.125}, {"params": unnamed[2:], "weight_decay": 0.0}]
    )
    third = METHODS[method](
        [{"params": late[2:], "regularize": False}, {"params": late[:2], "regularize": True}], weight_decay=0.125
    )
    for optimizer, parameters in ((first, named), (second, unnamed), (third, late)):
        feed(optimizer, parameters, gradients(20))
    assert_equal(named, unnamed)
    assert_equal(named, late)


@every_method
def test_a_group_added_later_gets_the_optimizer_s_settings(method):
    together, later = starts(), starts()
    first = METHODS[method](two_groups(together))
    second = METHODS[method]([{"params": later[:2], "regularize": True}])
    with pytest.raises(ValueError, match="says neither regularize=True nor regularize=False"):
        second.add_param_group({"params": later[2:]})
    second.add_param_group({"params": later[2:], "regularize": False})
    feed(first, together, gradients(20))
    feed(second, later, gradients(20))
    assert_equal(together, later)
    assert not second.param_groups[1]["regularize"]


BAD_ADAM = (("lr", -1.0), ("lr", "1e-3"), ("lr", math.inf), ("eps", -1.0), ("betas", (1.0, 0.9)), ("betas", (0.9,)))
BAD = [
    *(
        (method, {"weight_decay": value}, f"weight_decay={value}")
        for method in DECAYED
        for value in (-1e-3, math.inf, math.nan)
    ),
    *(("adadecay", {"alpha": value}, f"alpha={value}") for value in (-1.0, math.inf, math.nan)),
    *(("huber", {"delta": value}, f"delta={value}") for value in (-1.0, 0.0, math.inf, math.nan)),
    *(("corrected", {"lr_max": value}, f"lr_max={value}") for value in (-1.0, 0.0, math.inf, math.nan)),
    ("awd per tensor", {"coupled": "yes"}, "coupled='yes'"),
    ("awd coupled", {"scope": "layer"}, "scope='layer'"),
    *(("schedule", {"final_factor": value}, f"final_factor={value}") for value in (-0.1, math.inf, math.nan)),
    *(
        ("amos", {name: value}, f"{name}={value}")
        for name in ("lr", "zeta", "extra_l2")
        for value in (-1e-3, math.inf, math.nan)
    ),
    *(("amos", {"beta": value}, f"beta={value}") for value in (-0.1, 1.0, math.nan)),
    ("amos", {"legacy_sign": 1}, "legacy_sign=1"),
    *((method, {name: value}, f"{name}={value!r}") for method in DECAYED for name, value in BAD_ADAM),
]


@pytest.mark.parametrize(("method", "options", "text"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_argument_is_refused_with_its_value(method, options, text):
    with pytest.raises(ValueError) as error:
        METHODS[method](two_groups(starts()), **options)
    assert text in str(error.value)


@pytest.mark.parametrize("total_steps", [0, -5, 1.5, math.inf, math.nan])
def test_a_schedule_needs_a_whole_number_of_steps(total_steps):
    with pytest.raises(ValueError, match=f"total_steps={total_steps} must be a whole number"):
        DecayScheduledAdamW(two_groups(starts()), total_steps)


@pytest.mark.parametrize(
    "options", [{"factor": 0.0}, {"factor": -1.0}, {"factor": math.nan}, {"include_norm": "yes"}], ids=str
)
def test_a_bad_argument_of_rescaling_is_refused_with_its_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        RescaledAdam(small_network(), **options)


@every_method
def test_nothing_regularized_is_refused(method):
    for params in (starts(), [{"params": starts(), "regularize": False}]):
        with pytest.raises(ValueError, match="no parameter is regularized"):
            METHODS[method](params)


@pytest.mark.parametrize("method", DECAYED)
def test_weight_decay_beside_regularize_false_is_refused_with_its_value(method):
    with pytest.raises(ValueError, match=r"weight_decay=0\.375"):
        METHODS[method](
            [*two_groups(starts())[:1], {"params": starts()[2:], "regularize": False, "weight_decay": 0.375}]
        )


def test_amos_without_extra_l2_needs_no_regularized_group_and_refuses_complex_parameters():
    parameters = starts()
    feed(AMOS(parameters), parameters, gradients(3))
    with pytest.raises(ValueError, match="real parameters only"):
        AMOS([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])


def built(*overrides: str) -> Optimizer:
    return build_optimizer(read_config(compose_config(["task=cifar100", "scale=mini", *overrides])), small_network())


@pytest.mark.parametrize(
    "regularizer, setting, key, value",
    [
        # Mini scale multiplies decays that add up over the steps by 25.
        ("adadecay", "weight_decay=0.02", "decay", 0.5),
        ("adadecay", "alpha=8", "alpha", 8),
        ("awd", "weight_decay=0.02", "decay", 0.5),
        ("awd", "coupled=true", "coupled", True),
        ("awd", "scope=tensor", "scope", "tensor"),
        ("amos", "extra_l2=0.02", "extra_l2", 0.5),
        ("amos", "beta=0.5", "beta", 0.5),
        ("amos", "legacy_sign=true", "legacy_sign", True),
        ("amos", "extra_l2=0", "lr", 3.162e-2),
        ("adamw_schedule", "weight_decay=0.02", "decay", 0.5),
        ("adamw_schedule", "final_factor=100", "final_factor", 100),
        ("adamw_schedule", "weight_decay=0", "total_steps", 800),
    ],
)
def test_a_setting_of_the_configuration_reaches_the_optimizer(regularizer, setting, key, value):
    group = built(f"regularizer={regularizer}", f"regularizer.{setting}").param_groups[0]
    assert group["regularize"] and group[key] == value


def test_mini_scale_does_not_multiply_a_coupled_decay():
    assert (
        built("regularizer=awd", "regularizer.coupled=true", "regularizer.weight_decay=0.02").param_groups[0]["decay"]
        == 0.02
    )


def test_include_norm_in_the_configuration_rescales_normalization_weights_too():
    counts = [
        len(built("regularizer=rescaling", f"regularizer.include_norm={on}").param_groups[0]["params"])
        for on in ("false", "true")
    ]
    assert counts == [2, 3]


@pytest.mark.parametrize(
    "regularizer, setting",
    [
        ("adadecay", "weight_decay=-1"),
        ("adadecay", "alpha=-1"),
        ("awd", "weight_decay=ten"),
        ("awd", "coupled=1"),
        ("awd", "scope=7"),
        ("amos", "extra_l2=-1"),
        ("amos", "beta=1"),
        ("adamw_schedule", "final_factor=-1"),
        ("rescaling", "include_norm=1"),
    ],
)
def test_a_bad_setting_in_the_configuration_is_a_user_error_with_its_value(regularizer, setting):
    with pytest.raises(UserError, match=setting):
        built(f"regularizer={regularizer}", f"regularizer.{setting}")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "amos"])
def test_moments_of_another_shape_are_refused_with_both_shapes(method):
    saved, ours = starts(), starts()
    first, second = METHODS[method](two_groups(saved)), METHODS[method](two_groups(ours))
    feed(first, saved, gradients(2))
    state = copy.deepcopy(first.state_dict())
    rows, columns = ours[0].shape
    state["state"][0]["exp_avg"] = torch.zeros(rows - 1, columns)
    with pytest.raises(
        ValueError, match=rf"exp_avg of .* has shape \({rows - 1}, {columns}\), and .* \({rows}, {columns}\)"
    ):
        second.load_state_dict(state)


@pytest.mark.parametrize("method", DECAYED)
def test_a_weight_decay_set_by_a_schedule_is_refused(method):
    parameters = starts()
    optimizer = METHODS[method](two_groups(parameters))
    optimizer.param_groups[0]["weight_decay"] = 0.25
    with pytest.raises(ValueError, match=r"weight_decay=0\.25 .*'decay'"):
        feed(optimizer, parameters, gradients(1))


@pytest.mark.parametrize("method", ["awd", "awd per tensor"])
def test_a_gradient_that_is_not_finite_does_not_stay_in_awd_s_mean(method):
    parameters = starts()
    optimizer = METHODS[method](two_groups(parameters))
    feed(optimizer, parameters, gradients(3))
    before = [mean.clone() for mean in optimizer.param_groups[0]["mean_decay"]]
    feed(optimizer, parameters, [[torch.full_like(p, torch.nan) for p in parameters]])
    assert all(torch.equal(a, b) for a, b in zip(before, optimizer.param_groups[0]["mean_decay"], strict=True))
