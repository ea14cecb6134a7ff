"""AdamCPR, and CPR around SGD and Adam, pass torch's own optimizer tests."""

import copy
import gc
import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cpr import CPR, AdamCPR

pytest.importorskip("expecttest", reason="torch.testing._internal.common_optimizers imports it")

with pytest.MonkeyPatch.context() as _patch:
    # Importing it here would stop the whole process from setting torch.backends' flags, as the engine's tests do.
    _patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    from torch.testing._internal.common_optimizers import (
        optim_db,
        optim_error_inputs_func_adam,
        optim_inputs_func_adam,
        optim_inputs_func_adamw,
    )

torch.set_num_threads(1)

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
NO_BOUND = {"kappa_init_method": "uniform", "kappa_init_param": 1e9}
ACTING = {
    "kappa_init_method": "dependent",
    "kappa_init_param": 1.0,
}  # no larger than at the start, while gradients push outward
Make = Callable[..., torch.optim.Optimizer]


def bounds_of(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into the wrapped optimizer's and CPR's."""
    own = ("kappa_init_method", "kappa_init_param", "evaluate_at", "reg_function", "kappa_update", "reg_by_lr")
    return {k: v for k, v in options.items() if k not in own}, {k: v for k, v in options.items() if k in own}


def around(base: type[torch.optim.Optimizer], **fixed: Any) -> Make:
    def make(groups: Any, **options: Any) -> CPR:
        theirs, ours = bounds_of(options)
        return CPR(base(groups, **(fixed | theirs)), **ours)

    return make


KINDS: dict[str, Make] = {
    "AdamCPR": AdamCPR,
    "CPR around SGD": around(torch.optim.SGD, momentum=0.9),
    "CPR around Adam": around(torch.optim.Adam, foreach=False),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
every_bound = pytest.mark.parametrize("bound", [NO_BOUND, ACTING], ids=["no bound acts", "a bound acts"])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weight_and_bias(dtype: torch.dtype = torch.float32) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(0.1 * numbers(10, 5, dtype=dtype)), nn.Parameter(0.1 * numbers(10, seed=1, dtype=dtype))


def groups_of(weight: Any, bias: Any, **of_bias: Any) -> list[dict[str, Any]]:
    return [{"params": [weight], "regularize": True}, {"params": [bias], "regularize": False, **of_bias}]


def feed(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], steps: range) -> None:
    """Step with noisy gradients that push every parameter outward."""
    for t in steps:
        for i, p in enumerate(parameters):
            noise = numbers(*p.shape, seed=1000 * i + t, dtype=torch.float64)
            p.grad = (noise - 1.5 * p.detach().sign()).to(p.dtype)
        optimizer.step()


def multiplier(optimizer: torch.optim.Optimizer, parameter: Tensor) -> float:
    return float(optimizer.state[parameter]["lagmul"])


def everything(optimizer: torch.optim.Optimizer) -> dict[Any, Any]:
    """Return a copy of the saved state, by parameter number and name."""
    return copy.deepcopy(optimizer.state_dict()["state"])


def assert_equal_states(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    for number, entry in one.items():
        assert entry.keys() == other[number].keys()
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[number][name])), (number, name)


def shapes_of_all_kinds(dtype: torch.dtype) -> list[Tensor]:
    """Return matrices (plain, transposed, with gaps, empty), a bias, a scalar and a convolution in channels_last."""
    conv = 0.1 * numbers(4, 3, 2, 2, seed=4, dtype=dtype)
    return [
        0.1 * numbers(10, 5, dtype=dtype),
        0.1 * numbers(6, 4, seed=1, dtype=dtype).t(),
        0.1 * numbers(10, 5, 2, seed=2, dtype=dtype)[..., 0],
        0.1 * numbers(7, seed=3, dtype=dtype),
        0.1 * numbers(1, seed=5, dtype=dtype)[0],
        conv.to(memory_format=torch.channels_last),
        torch.zeros(0, 5, dtype=dtype),
    ]


def copies(tensors: Sequence[Tensor]) -> list[nn.Parameter]:
    """Return parameters of the same strides, gaps in memory included."""
    return [nn.Parameter(t.new_empty_strided(t.shape, t.stride()).copy_(t)) for t in tensors]


# --- without an active bound it is torch's Adam

ADAM_INPUTS = [
    *(
        (f"{dtype}, {given.desc}", dtype, given)
        for dtype in (torch.float32, torch.float64)
        for given in optim_inputs_func_adam("cuda", dtype)
    ),
    *((f"AdamW, {given.desc}", torch.float32, given) for given in optim_inputs_func_adamw("cuda", torch.float32)),
    *((f"float16, {given.desc}", torch.float16, given) for given in optim_inputs_func_adam("cpu", torch.float16)),
    *((f"bfloat16, {given.desc}", torch.bfloat16, given) for given in optim_inputs_func_adam("cpu", torch.bfloat16)),
]
TENSOR_BETAS = [entry for entry in ADAM_INPUTS if isinstance(entry[2].kwargs.get("betas", (0,))[0], Tensor)]
TAKEN = [entry for entry in ADAM_INPUTS if entry not in TENSOR_BETAS]
# Per element, after the steps below. In half precision, one rounding more or less in a step of lr.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def test_the_inputs_of_torch_s_adam_tests_are_known_here():
    assert len(TAKEN) >= 20
    (info,) = (info for info in optim_db if info.optim_cls is torch.optim.Adam)
    assert info.optim_inputs_func is optim_inputs_func_adam


@pytest.mark.parametrize(("dtype", "given"), [entry[1:] for entry in TAKEN], ids=[entry[0] for entry in TAKEN])
def test_with_a_bound_out_of_reach_every_input_gives_torch_s_adam(dtype, given):
    ours, theirs = copies(shapes_of_all_kinds(dtype)), copies(shapes_of_all_kinds(dtype))
    options = {"lr": 1e-3} | given.kwargs
    adamcpr = AdamCPR(ours, **({"weight_decay": 0.1} | options), **NO_BOUND)  # the decay makes a plain list regularized
    own = {k: v for k, v in options.items() if k not in ("weight_decay", "capturable")}
    adam = torch.optim.Adam(theirs, foreach=False, **own)
    for t in range(8):
        feed(adamcpr, ours, range(t, t + 1))
        for p, twin in zip(ours, theirs, strict=True):
            assert p.grad is not None
            twin.grad = p.grad.clone()
        adam.step()
    assert all(group["regularize"] and group["weight_decay"] == 0 for group in adamcpr.param_groups)
    # torch rounds a step of a tensor lr to float32.
    tolerance = max(TOLERANCE[dtype], 1e-9) if isinstance(options["lr"], Tensor) else TOLERANCE[dtype]
    for p, twin in zip(ours, theirs, strict=True):
        assert torch.allclose(p, twin, rtol=0, atol=tolerance), (p.shape, (p - twin).abs().max())
        for name, value in adam.state[twin].items():
            kept, rtol = adamcpr.state[p][name].double(), 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(kept, value.double(), rtol=rtol, atol=1e-20)


@pytest.mark.parametrize("given", [entry[2] for entry in TENSOR_BETAS], ids=[entry[0] for entry in TENSOR_BETAS])
def test_betas_as_tensors_are_refused(given):
    weight, bias = weight_and_bias()
    with pytest.raises(ValueError, match=r"betas=\(tensor.* must be two numbers, both in \[0, 1\)"):
        AdamCPR(groups_of(weight, bias), **{k: v for k, v in given.kwargs.items() if k != "weight_decay"})


# AdamCPR's messages for torch's error inputs. None: torch's limits on foreach, which has no effect here.
ERRORS = {
    "invalid param type": (
        TypeError,
        "params argument given to the optimizer should be an iterable of Tensors or dicts",
    ),
    "a param group cannot have duplicate parameters": (UserWarning, "a parameter group with duplicate parameters"),
    "duplicate parameters should not occur across param groups either": (
        ValueError,
        "appear in more than one parameter group",
    ),
    "Tensor lr must be 1-element": (ValueError, r"lr is a tensor of shape \(2,\); it must have one element"),
    "all optimizer params should be with/without names": (ValueError, "Some param names are missing"),
    "all optimizer param groups should be with/without names.": (
        ValueError,
        "cannot add param group with names to the optimizer",
    ),
    "beta1 should be between 0 and 1": (ValueError, r"betas=\(1\.0, 0\.0\) must be two numbers, both in \[0, 1\)"),
    "weight_decay should > 0": (ValueError, "weight_decay=-1 must be a number >= 0"),
    "lr as Tensor doesn't work with foreach & not capturable": None,
    "betas must be either both floats or both Tensors": (ValueError, r"betas=\(.*tensor.*\) must be two numbers"),
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": (
        ValueError,
        "must be two numbers",
    ),
}


ERROR_INPUTS = optim_error_inputs_func_adam("cpu", torch.float32)


@pytest.mark.parametrize("error", ERROR_INPUTS, ids=lambda error: error.optimizer_error_input.desc)
def test_what_torch_s_adam_refuses_is_refused_with_a_clear_message(error):
    given = error.optimizer_error_input
    params = [nn.Parameter(numbers(3, 2))] if given.params is None else given.params
    options = {"weight_decay": 0.1} | given.kwargs
    if given.desc not in ERRORS:
        pytest.skip("an input of another version of torch")
    expected = ERRORS[given.desc]
    if expected is None:
        optimizer = AdamCPR(params, **options, **NO_BOUND)
        feed(optimizer, params, range(3))
        assert optimizer.state[params[0]]["step"] == 3
        return
    kind, message = expected
    if kind is UserWarning:
        with pytest.warns(kind, match=message):
            AdamCPR(params, **options)
        return
    with pytest.raises(kind, match=message):
        AdamCPR(params, **options)


FLAGS = [{"foreach": True}, {"fused": True}, {"foreach": True, "fused": True}, {"capturable": True}]


@pytest.mark.parametrize("flag", FLAGS, ids=str)
def test_torch_s_flags_are_accepted_and_change_no_bit(flag):
    (weight, bias), (plain, free) = weight_and_bias(), weight_and_bias()
    flagged, without = (
        AdamCPR(groups_of(weight, bias), lr=1e-2, **flag, **ACTING),
        AdamCPR(groups_of(plain, free), lr=1e-2, **ACTING),
    )
    feed(flagged, [weight, bias], range(20))
    feed(without, [plain, free], range(20))
    assert torch.equal(weight, plain) and torch.equal(bias, free)
    assert multiplier(flagged, weight) > 0


def test_differentiable_is_refused():
    with pytest.raises(ValueError, match="differentiable=True is not supported"):
        AdamCPR(groups_of(*weight_and_bias()), differentiable=True)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
def test_a_flag_set_in_defaults_and_groups_after_construction_changes_no_bit(flag):
    (weight, bias), (plain, free) = weight_and_bias(), weight_and_bias()
    changed, without = (AdamCPR(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (plain, free)))
    changed.defaults[flag] = True
    for group in changed.param_groups:
        group[flag] = True
    feed(changed, [weight, bias], range(20))
    feed(without, [plain, free], range(20))
    assert torch.equal(weight, plain) and torch.equal(bias, free)
    changed.load_state_dict(copy.deepcopy(changed.state_dict()))
    feed(changed, [weight, bias], range(20, 30))
    feed(without, [plain, free], range(20, 30))
    assert torch.equal(weight, plain) and torch.equal(bias, free)


def test_foreach_in_the_groups_of_a_wrapped_adam_reaches_that_adam():
    (weight, bias), (plain, free) = weight_and_bias(torch.float64), weight_and_bias(torch.float64)
    optimizer = CPR(torch.optim.Adam(groups_of(weight, bias), lr=1e-2, foreach=False), **ACTING)
    reference = CPR(torch.optim.Adam(groups_of(plain, free), lr=1e-2, foreach=True), **ACTING)
    for group in optimizer.param_groups:
        group["foreach"] = True
    assert all(group["foreach"] for group in optimizer.optimizer.param_groups)
    feed(optimizer, [weight, bias], range(20))
    feed(reference, [plain, free], range(20))
    assert torch.equal(weight, plain) and torch.equal(bias, free)


# --- descent


def descend(
    make: Make, weight: Tensor, bias: Tensor, schedulers: Sequence[Callable] = (), steps: int = 100, **options
) -> tuple[float, float]:
    """Return the loss |W x + b|² before and after training, as in torch's basic cases."""
    optimizer = make(groups_of(weight, bias, **options.pop("of_bias", {})), **options)
    schedules = [schedule(optimizer) for schedule in schedulers]
    inputs = numbers(5, seed=9, dtype=weight.dtype)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight.mv(inputs) + bias).square().sum()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(steps):
        loss = optimizer.step(closure)
        for schedule in schedules:
            schedule.step(loss.detach()) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else schedule.step()
    return first, closure().item()


ADAM_SCHEDULERS = next(info for info in optim_db if info.optim_cls is torch.optim.Adam).scheduler_inputs


@every_kind
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "with gaps"])
@pytest.mark.parametrize("schedulers", [(), *ADAM_SCHEDULERS], ids=lambda s: f"{len(s)} schedulers")
def test_the_basic_cases_descend(make, contiguous, schedulers):
    weight, bias = nn.Parameter(numbers(10, 5)), nn.Parameter(numbers(10, seed=1))
    if not contiguous:
        weight, bias = (nn.Parameter(torch.stack([p.detach()] * 2, -1)[..., 0]) for p in (weight, bias))
        assert not weight.is_contiguous()
    lr = 1e-3 if make is KINDS["CPR around SGD"] else 1e-2
    first, last = descend(make, weight, bias, schedulers, lr=lr, **ACTING)
    assert last < (0.95 if schedulers else 0.7) * first


@every_kind
def test_maximize_ascends(make):
    first, last = descend(make, *weight_and_bias(), lr=1e-3, maximize=True, **NO_BOUND)
    assert last > 1.5 * first


@every_kind
@every_bound
def test_each_group_has_the_lr_it_was_given(make, bound):
    (weight, bias), (alone, free) = weight_and_bias(torch.float64), weight_and_bias(torch.float64)
    both = make(groups_of(weight, bias, lr=1e-2), lr=1e-3, **bound)
    feed(both, [weight, bias], range(20))
    assert [group["lr"] for group in both.param_groups] == [1e-3, 1e-2]
    feed(make([{"params": [alone], "regularize": True}], lr=1e-3, **bound), [alone], range(20))
    sgd = make is KINDS["CPR around SGD"]
    of_bias = torch.optim.SGD([free], lr=1e-2, momentum=0.9) if sgd else torch.optim.Adam([free], lr=1e-2)
    for t in range(20):
        free.grad = numbers(10, seed=1000 + t, dtype=torch.float64) - 1.5 * free.detach().sign()
        of_bias.step()
    assert torch.equal(weight, alone)
    torch.testing.assert_close(bias, free, rtol=0, atol=1e-14)


@every_kind
def test_a_group_s_single_tensor_generator_and_late_tensor_are_trained(make):
    (weight, bias), (plain, free), late, twin = weight_and_bias(), weight_and_bias(), *copies([0.1 * numbers(4, 3)] * 2)
    optimizer = make(
        [{"params": weight, "regularize": True}, {"params": (p for p in [bias]), "regularize": False}],
        lr=1e-2,
        **ACTING,
    )
    reference = make(groups_of(plain, free), lr=1e-2, **ACTING)
    optimizer.add_param_group({"params": late, "regularize": True})
    reference.add_param_group({"params": [twin], "regularize": True})
    feed(optimizer, [weight, bias, late], range(10))
    feed(reference, [plain, free, twin], range(10))
    assert torch.equal(weight, plain) and torch.equal(bias, free) and torch.equal(late, twin)
    assert multiplier(optimizer, late) > 0
    with pytest.raises(ValueError, match="appear in more than one parameter group"):
        optimizer.add_param_group({"params": weight, "regularize": True})
    with pytest.raises(TypeError, match="optimizer can only optimize Tensors"):
        optimizer.add_param_group({"params": ["weight"], "regularize": True})
    assert len(optimizer.param_groups) == 3
    feed(optimizer, [weight, bias, late], range(10, 12))
    feed(reference, [plain, free, twin], range(10, 12))
    assert torch.equal(weight, plain) and torch.equal(late, twin)


REFUSED = {
    "says neither regularize=True nor regularize=False": {},
    r"weight_decay=0\.1 on a group with regularize=True": {"regularize": True, "weight_decay": 0.1},
    "kappa_update=-1 must be a number > 0": {"regularize": True, "kappa_update": -1},
    "CPR regularizes real parameters only": {"regularize": True, "dtype": torch.complex64},
}


@every_kind
@pytest.mark.parametrize("message", REFUSED)
def test_a_group_that_is_refused_is_not_added(make, message):
    weight, bias = weight_and_bias()
    given = dict(REFUSED[message])
    late = nn.Parameter(numbers(4, 3).to(given.pop("dtype", torch.float32)))
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [late], **given})
    assert len(optimizer.param_groups) == 2
    if isinstance(optimizer, CPR):
        assert len(optimizer.optimizer.param_groups) == 2
    feed(optimizer, [weight, bias], range(5))
    assert multiplier(optimizer, weight) > 0


# --- steps with few or no gradients


@every_kind
@every_bound
def test_a_step_with_zero_gradients_leaves_parameters_and_counts(make, bound):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **bound)
    before = weight.detach().clone(), bias.detach().clone()
    for _ in range(3):
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        optimizer.step()
    assert torch.equal(weight, before[0]) and torch.equal(bias, before[1])
    assert optimizer.state[weight]["step"] == 3
    assert multiplier(optimizer, weight) == 0


@every_kind
def test_a_step_without_gradients_does_nothing(make):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)
    assert not optimizer.state_dict()["state"]
    feed(optimizer, [weight, bias], range(4))
    saved = everything(optimizer)
    optimizer.zero_grad()
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)
    assert_equal_states(everything(optimizer), saved)


@every_kind
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_sets_to_none_or_to_zero_in_place(make, set_to_none):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    feed(optimizer, [weight, bias], range(3))
    gradients = [weight.grad, bias.grad]
    optimizer.zero_grad(set_to_none=set_to_none)
    if set_to_none:
        assert weight.grad is None and bias.grad is None
        return
    assert weight.grad is gradients[0] and bias.grad is gradients[1]
    assert not weight.grad.any() and not bias.grad.any()
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(weight, before)  # by the momentum


@every_kind
@pytest.mark.parametrize("measure", ["l2", "l1", "huber"])
@every_bound
def test_an_empty_matrix_does_not_change_the_others(make, bound, measure):
    (weight, bias), (plain, free), empty = weight_and_bias(), weight_and_bias(), nn.Parameter(torch.zeros(0, 5))
    if bound is ACTING:
        bound = {"kappa_init_method": "warm_start", "kappa_init_param": 2}  # kI0 refuses a matrix of size 0
    groups = groups_of(weight, bias)
    groups[0]["params"].insert(0, empty)
    with_empty = make(groups, lr=1e-2, **bound)
    without = make(groups_of(plain, free), lr=1e-2, **bound)
    for t in range(10):
        for first, p in ((0, weight), (1, bias)):
            p.grad = numbers(*p.shape, seed=1000 * first + t) - 1.5 * p.detach().sign()
        empty.grad = torch.zeros(0, 5)
        with_empty.step()
        for p, twin in ((weight, plain), (bias, free)):
            twin.grad = p.grad.clone()
        without.step()
    assert torch.equal(weight, plain) and torch.equal(bias, free)
    assert multiplier(with_empty, weight) == multiplier(without, plain)
    assert multiplier(with_empty, empty) == 0


@every_kind
def test_parameters_of_several_dtypes_in_one_group_step_as_in_separate_groups(make):
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float32)
    together = [nn.Parameter(0.1 * numbers(6, 4, seed=i, dtype=dtype)) for i, dtype in enumerate(dtypes)]
    alone = copies([p.detach() for p in together])
    optimizer = make([{"params": together, "regularize": True}], lr=1e-2, **ACTING)
    single = [make([{"params": [p], "regularize": True}], lr=1e-2, **ACTING) for p in alone]
    for t in range(20):
        feed(optimizer, together, range(t, t + 1))
        for p, twin, own in zip(together, alone, single, strict=True):
            twin.grad = p.grad.clone()
            own.step()
    for p, twin, own in zip(together, alone, single, strict=True):
        assert torch.equal(p, twin)
        assert multiplier(optimizer, p) == multiplier(own, twin) > 0
        assert optimizer.state[p]["lagmul"].dtype == (torch.float64 if p.dtype == torch.float64 else torch.float32)


def of_kernel(kernel: str) -> Make:
    return lambda groups, **options: AdamCPR(groups, kernel=kernel, **options)


@pytest.mark.parametrize("default", [torch.float64, torch.device("meta")], ids=str)
@pytest.mark.parametrize(
    "make",
    [*KINDS.values(), of_kernel("eager"), of_kernel("triton")],
    ids=[*KINDS, "AdamCPR, eager", "AdamCPR, triton"],
)
def test_another_default_dtype_or_device_changes_no_bit(make, default):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = [[nn.Parameter(p.detach().to(device)) for p in weight_and_bias()] for _ in range(2)]
    (weight, bias), (plain, free) = pairs
    outward = [-1.5 * p.detach().sign() for p in pairs[0]]
    gradients = [[numbers(*p.shape, seed=t).to(device) + p for p in outward] for t in range(10)]

    def train(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        optimizer = make(groups_of(*parameters), lr=1e-2, **ACTING)
        for row in gradients:
            for p, gradient in zip(parameters, row, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
        return optimizer

    if make is KINDS["CPR around Adam"] and isinstance(default, torch.device) and TORCH < (2, 14):
        pytest.skip("torch's own Adam fails there")
    reference = train([plain, free])
    before = torch.get_default_dtype()
    try:
        if isinstance(default, torch.dtype):
            torch.set_default_dtype(default)
        else:
            torch.set_default_device(default)
        optimizer = train([weight, bias])
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
    assert torch.equal(weight, plain) and torch.equal(bias, free)
    assert optimizer.state[weight]["lagmul"].dtype == torch.float32
    assert multiplier(optimizer, weight) == multiplier(reference, plain) > 0


def test_complex_parameters_that_are_not_regularized_step_as_with_torch_s_adam():
    real, plain = copies([0.1 * numbers(6, 4)] * 2)
    starts = [torch.complex(numbers(5, 5, seed=s), numbers(5, 5, seed=s + 50)) for s in (1, 2)]
    ours, theirs = copies(starts), copies(starts)
    groups = [{"params": [real], "regularize": True}, {"params": ours, "regularize": False}]
    optimizer = AdamCPR(groups, lr=1e-2, amsgrad=True, **ACTING)
    adam = torch.optim.Adam(theirs, lr=1e-2, amsgrad=True, foreach=False)
    as_real = torch.optim.Adam([(twin := nn.Parameter(torch.view_as_real(starts[0]).clone()))], lr=1e-2, amsgrad=True)
    for t in range(5):
        real.grad = numbers(6, 4, seed=100 + t) - 2 * real.detach().sign()
        for i, (p, other) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = torch.complex(numbers(5, 5, seed=200 + t + i), numbers(5, 5, seed=300 + t + i))
            other.grad = p.grad.clone()
        twin.grad = torch.view_as_real(ours[0].grad).clone()
        optimizer.step(), adam.step(), as_real.step()
    for p, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, other, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.view_as_real(ours[0]), twin, rtol=0, atol=1e-6)
    assert not torch.equal(real, plain)
    with pytest.raises(ValueError, match="CPR regularizes real parameters only"):
        optimizer.add_param_group({"params": [nn.Parameter(starts[0].clone())], "regularize": True})


# --- closures


@every_kind
def test_the_closure_runs_once_with_gradients_and_its_loss_is_returned(make):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    seen: list[Tensor] = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        seen.append(weight.square().sum() + bias.square().sum())
        seen[-1].backward()
        return seen[-1]

    with torch.no_grad():
        assert optimizer.step(closure) is seen[0]
        assert optimizer.step(closure=closure) is seen[1]
        assert not torch.is_grad_enabled()
    assert len(seen) == 2
    assert optimizer.step() is None
    assert optimizer.state[weight]["step"] == 3


def test_an_optimizer_that_calls_its_closure_several_times_is_refused_by_name():
    with pytest.raises(ValueError, match="LBFGS evaluates its closure several times"):
        CPR(torch.optim.LBFGS([nn.Parameter(numbers(3, 2))]), **ACTING)


# --- lr as a tensor, schedulers


@every_kind
@pytest.mark.parametrize("reg_by_lr", [False, True])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "one element"])
def test_a_tensor_lr_that_a_scheduler_changes_in_place_equals_a_number(make, reg_by_lr, shape):
    (weight, bias), (plain, free) = weight_and_bias(torch.float64), weight_and_bias(torch.float64)
    options = {"reg_by_lr": reg_by_lr, "kappa_update": 20.0 if reg_by_lr else 1.0, **ACTING}
    lr = torch.full(shape, 2**-6, dtype=torch.float64)
    optimizer, reference = (
        make(groups_of(weight, bias), lr=lr, **options),
        make(groups_of(plain, free), lr=2**-6, **options),
    )
    try:
        schedules = [lr_scheduler.StepLR(o, step_size=3, gamma=0.5) for o in (optimizer, reference)]
    except RuntimeError as error:
        pytest.skip(f"this torch has no schedulers for such an lr: {error}")
    kept = [group["lr"] for group in optimizer.param_groups]
    for t in range(15):
        feed(optimizer, [weight, bias], range(t, t + 1))
        feed(reference, [plain, free], range(t, t + 1))
        for schedule in schedules:
            schedule.step()
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, kept, strict=True))
    assert kept[0].item() == reference.param_groups[0]["lr"] == 2**-11
    torch.testing.assert_close(weight, plain, rtol=0, atol=1e-14)
    torch.testing.assert_close(bias, free, rtol=0, atol=1e-14)
    assert multiplier(optimizer, weight) == pytest.approx(multiplier(reference, plain), rel=1e-9)
    assert multiplier(optimizer, weight) > 0


Scheduler = Callable[[torch.optim.Optimizer], Any]
SCHEDULERS: dict[str, Scheduler] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    "LambdaLR, one function a group": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 1 / (t + 1), lambda t: 0.9**t]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 7], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 12, power=2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, step_size_up=3, cycle_momentum=False),
    "CyclicLR, momentum": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 3, base_momentum=0.7, max_momentum=0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=16, cycle_momentum=False),
    "OneCycleLR, momentum": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=16),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 10)], milestones=[4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=1e-3, anneal_epochs=5),
}


@every_kind
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_sets_the_same_lr_as_with_torch_s_adam_and_the_step_uses_it(make, schedule):
    """Read lr and betas of each step from torch's Adam. Setting them by hand gives the same bits."""
    (weight, bias), (plain, free), (manual, other) = weight_and_bias(), weight_and_bias(), weight_and_bias()
    optimizer, by_hand = (make(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (manual, other)))
    sgd = make is KINDS["CPR around SGD"]
    pair = [{"params": [plain]}, {"params": [free]}]
    theirs = torch.optim.SGD(pair, lr=1e-2, momentum=0.9) if sgd else torch.optim.Adam(pair, lr=1e-2, foreach=False)
    watched = "momentum" if sgd else "betas"
    scheduled, reference = schedule(optimizer), schedule(theirs)
    rates = set()
    for t in range(16):
        for ours, their, hand in zip(optimizer.param_groups, theirs.param_groups, by_hand.param_groups, strict=True):
            assert ours["lr"] == their["lr"] and ours[watched] == their[watched]
            hand["lr"], hand[watched] = their["lr"], their[watched]
            rates.add((ours["lr"], ours[watched]))
        feed(optimizer, [weight, bias], range(t, t + 1))
        feed(by_hand, [manual, other], range(t, t + 1))
        plain.grad, free.grad = weight.grad.clone(), bias.grad.clone()
        theirs.step()
        for each in (scheduled, reference) if t < 15 else ():
            each.step(1.0) if isinstance(each, lr_scheduler.ReduceLROnPlateau) else each.step()
    assert len(rates) > 1
    assert torch.equal(weight, manual) and torch.equal(bias, other)
    torch.testing.assert_close(bias, free, rtol=0, atol=1e-7)  # the bias has no bound
    assert multiplier(optimizer, weight) == multiplier(by_hand, manual)
    assert not torch.equal(weight, plain)


@every_kind
def test_the_states_of_a_scheduler_and_the_optimizer_resume_together(make):
    (weight, bias), (again, free) = weight_and_bias(), weight_and_bias()
    whole = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    schedule = lr_scheduler.OneCycleLR(whole, 1e-2, total_steps=20)
    for t in range(8):
        feed(whole, [weight, bias], range(t, t + 1))
        schedule.step()
    saved = copy.deepcopy((whole.state_dict(), schedule.state_dict(), weight.detach(), bias.detach()))
    again.data.copy_(saved[2])
    free.data.copy_(saved[3])
    resumed = make(groups_of(again, free), lr=1e-2, **ACTING)
    continued = lr_scheduler.OneCycleLR(resumed, 1e-2, total_steps=20)
    resumed.load_state_dict(saved[0])
    continued.load_state_dict(saved[1])
    for t in range(8, 18):
        for optimizer, parameters, each in ((whole, [weight, bias], schedule), (resumed, [again, free], continued)):
            feed(optimizer, parameters, range(t, t + 1))
            each.step()
    assert torch.equal(weight, again) and torch.equal(bias, free)
    assert multiplier(whole, weight) == multiplier(resumed, again)


# --- state


@every_kind
@every_bound
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_loaded_state_continues_in_step_and_the_saved_state_does_not_change(make, bound, dtype):
    (weight, bias), (again, free) = weight_and_bias(dtype), weight_and_bias(dtype)
    optimizer, loaded = (make(groups_of(*pair), lr=1e-2, **bound) for pair in ((weight, bias), (again, free)))
    feed(optimizer, [weight, bias], range(15))
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    given, kept = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    loaded.load_state_dict(given)
    assert given["param_groups"] == kept["param_groups"]
    assert_equal_states(given["state"], kept["state"])
    for t in range(15, 30):
        feed(optimizer, [weight, bias], range(t, t + 1))
        feed(loaded, [again, free], range(t, t + 1))
        assert torch.equal(weight, again) and torch.equal(bias, free)
    assert_equal_states(everything(optimizer), everything(loaded))
    assert optimizer.state_dict()["param_groups"] == loaded.state_dict()["param_groups"]


@every_kind
def test_a_state_saved_with_float64_parameters_continues_with_float32_parameters(make):
    (weight, bias), (again, free) = weight_and_bias(torch.float64), weight_and_bias(torch.float32)
    optimizer, loaded = (make(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (again, free)))
    feed(optimizer, [weight, bias], range(15))
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for t in range(15, 30):
        feed(optimizer, [weight, bias], range(t, t + 1))
        again.grad, free.grad = weight.grad.float(), bias.grad.float()
        loaded.step()
    torch.testing.assert_close(again.double(), weight, rtol=0, atol=1e-5)
    assert multiplier(loaded, again) == pytest.approx(multiplier(optimizer, weight), rel=1e-3)
    for name, entry in (*loaded.state[again].items(), *getattr(loaded, "optimizer", loaded).state[again].items()):
        assert torch.as_tensor(entry).dtype != torch.float64, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_kind
def test_a_state_saved_on_the_cpu_continues_on_the_gpu_and_back(make):
    (weight, bias), (again, free) = weight_and_bias(), [nn.Parameter(p.detach().cuda()) for p in weight_and_bias()]
    optimizer, loaded = (make(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (again, free)))
    feed(optimizer, [weight, bias], range(15))
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        for t in range(15, 25):
            feed(optimizer, [weight, bias], range(t, t + 1))
            again.grad, free.grad = weight.grad.cuda(), bias.grad.cuda()
            loaded.step()
        torch.testing.assert_close(again.cpu(), weight, rtol=0, atol=1e-5)
        assert multiplier(loaded, again) == pytest.approx(multiplier(optimizer, weight), rel=1e-3)
        optimizer.load_state_dict(copy.deepcopy(loaded.state_dict()))


@every_kind
def test_betas_come_back_as_a_list_or_a_tuple(make):
    (weight, bias), (again, free) = weight_and_bias(), weight_and_bias()
    optimizer, loaded = (make(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (again, free)))
    feed(optimizer, [weight, bias], range(5))
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group |= {"betas": [0.9, 0.999]} if "betas" in group else {}
    loaded.load_state_dict(state)
    feed(optimizer, [weight, bias], range(5, 10))
    feed(loaded, [again, free], range(5, 10))
    assert torch.equal(weight, again)


@every_kind
@pytest.mark.parametrize("change", ["one group fewer", "one parameter fewer", "one parameter more"])
def test_a_state_of_other_groups_is_refused_and_nothing_is_loaded(make, change):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    feed(optimizer, [weight, bias], range(5))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.5
    if change == "one group fewer":
        state["param_groups"].pop()
    else:
        state["param_groups"][1]["params"] = [] if change == "one parameter fewer" else [1, 2]
    saved, groups = everything(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(ValueError, match="loaded state dict"):
        optimizer.load_state_dict(state)
    assert_equal_states(everything(optimizer), saved)
    assert optimizer.state_dict()["param_groups"] == groups


@every_kind
@pytest.mark.parametrize("bound", [NO_BOUND, ACTING], ids=["no bound acts", "a bound acts"])
def test_older_states_without_later_flags_and_with_steps_as_numbers_can_be_resumed(make, bound):
    (weight, bias), (again, free) = weight_and_bias(), weight_and_bias()
    optimizer, loaded = (make(groups_of(*pair), lr=1e-2, **bound) for pair in ((weight, bias), (again, free)))
    feed(optimizer, [weight, bias], range(10))
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        for flag in (
            "foreach",
            "differentiable",
            "maximize",
            "capturable",
            "fused",
            "amsgrad",
            "decoupled_weight_decay",
        ):
            group.pop(flag, None)
    for entry in state["state"].values():
        for name in ("step", "cpr_step"):
            if name in entry:
                entry[name] = float(entry[name])
    loaded.load_state_dict(state)
    feed(optimizer, [weight, bias], range(10, 20))
    feed(loaded, [again, free], range(10, 20))
    assert torch.equal(weight, again) and torch.equal(bias, free)
    assert optimizer.state[weight]["step"] == loaded.state[again]["step"] == 20


@every_kind
def test_a_state_file_is_read_with_weights_only(make, tmp_path):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=torch.tensor(1e-2), **ACTING)
    feed(optimizer, [weight, bias], range(10))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert_equal_states(saved["state"], everything(optimizer))
    assert saved["param_groups"] == optimizer.state_dict()["param_groups"]


def through_pickle(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


@every_kind
@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_a_copy_has_every_public_attribute_and_is_independent(make, duplicate):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    feed(optimizer, [weight, bias], range(10))
    (again, free), twin = duplicate(([weight, bias], optimizer))
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    assert {name for name in vars(twin) if not name.startswith("_")} == public
    assert twin.defaults == {"differentiable": False} | optimizer.defaults  # torch's __setstate__ adds it
    assert twin.defaults is not optimizer.defaults
    assert repr(twin) == repr(optimizer)
    before = weight.detach().clone()
    feed(twin, [again, free], range(10, 20))
    assert torch.equal(weight, before)
    feed(optimizer, [weight, bias], range(10, 20))
    assert torch.equal(weight, again) and torch.equal(bias, free)
    assert multiplier(twin, again) == multiplier(optimizer, weight) > 0


@every_kind
def test_a_state_entry_set_before_the_first_step_is_kept(make):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    optimizer.state[weight]["mine"] = torch.tensor(3.0)
    feed(optimizer, [weight, bias], range(3))
    assert optimizer.state[weight]["mine"] == 3
    assert optimizer.state[weight]["step"] == 3
    assert multiplier(optimizer, weight) > 0


@every_kind
def test_a_saved_state_may_be_changed_without_changing_the_optimizer_s_groups(make):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    feed(optimizer, [weight, bias], range(3))
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 5.0
    state["state"].clear()
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert optimizer.state[weight]["step"] == 3


# --- named parameters


@every_kind
@pytest.mark.parametrize(("saved_names", "loaded_names"), [(True, True), (True, False), (False, True)])
def test_states_load_between_named_and_unnamed_groups(make, saved_names, loaded_names):
    def build(named: bool) -> tuple[nn.Parameter, nn.Parameter, torch.optim.Optimizer]:
        weight, bias = weight_and_bias()
        pair = (("net.weight", weight), ("net.bias", bias)) if named else (weight, bias)
        return weight, bias, make(groups_of(*pair), lr=1e-2, **ACTING)

    weight, bias, optimizer = build(saved_names)
    again, free, loaded = build(loaded_names)
    feed(optimizer, [weight, bias], range(10))
    again.data.copy_(weight.data)
    free.data.copy_(bias.data)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    feed(optimizer, [weight, bias], range(10, 15))
    feed(loaded, [again, free], range(10, 15))
    assert torch.equal(weight, again) and torch.equal(bias, free)
    names = [group.get("param_names") for group in loaded.param_groups]
    assert names == [
        ["net.weight"],
        ["net.bias"],
    ]  # torch's rule: the saved names, or the optimizer's own if there are none
    if loaded_names:
        assert "net.weight (10, 5)" in repr(loaded)
        with pytest.raises(ValueError, match="cannot add param group without names to the optimizer"):
            loaded.add_param_group({"params": [nn.Parameter(numbers(2, 2))], "regularize": True})
        assert len(loaded.param_groups) == 2
        late = nn.Parameter(0.1 * numbers(4, 3))
        loaded.add_param_group({"params": [("late", late)], "regularize": True})
        feed(loaded, [again, free, late], range(10))
        assert loaded.param_groups[2]["param_names"] == ["late"]
        assert multiplier(loaded, late) > 0


def test_named_parameters_of_a_model_with_a_weight_decay_are_all_regularized_under_their_names():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = AdamCPR(model.named_parameters(), lr=1e-2, weight_decay=0.1, **ACTING)
    feed(optimizer, list(model.parameters()), range(5))
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert all(multiplier(optimizer, p) > 0 for p in model.parameters())


# --- hooks


@every_kind
def test_step_hooks_fire_once_in_torch_s_order_and_not_after_their_removal(make):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    plain = torch.optim.SGD([nn.Parameter(numbers(2, 2))], lr=0.1)
    calls: list[Any] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda which, args, kwargs: calls.append((name, which))

    handles = [
        register_optimizer_step_pre_hook(hook("all, before")),
        register_optimizer_step_post_hook(hook("all, after")),
        optimizer.register_step_pre_hook(hook("before")),
        optimizer.register_step_post_hook(hook("after")),
    ]
    try:
        optimizer.step()
        assert calls == [(name, optimizer) for name in ("all, before", "before", "after", "all, after")]
        calls.clear()
        feed(optimizer, [weight, bias], range(1))
        assert calls == [(name, optimizer) for name in ("all, before", "before", "after", "all, after")]
        calls.clear()
        lr_scheduler.StepLR(optimizer, 1)  # the scheduler replaces the instance's step
        feed(optimizer, [weight, bias], range(1))
        assert calls == [(name, optimizer) for name in ("all, before", "before", "after", "all, after")]
        calls.clear()
        plain.step()
        assert calls == [("all, before", plain), ("all, after", plain)]
    finally:
        for handle in handles:
            handle.remove()
    calls.clear()
    optimizer.step()
    assert not calls


def test_the_wrapped_optimizer_s_own_step_hooks_fire_within_cpr_s():
    weight, bias = weight_and_bias()
    optimizer = CPR(torch.optim.SGD(groups_of(weight, bias), lr=1e-2), **ACTING)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.optimizer.register_step_pre_hook(lambda *_: calls.append("before SGD"))
    optimizer.optimizer.register_step_post_hook(lambda *_: calls.append("after SGD"))
    feed(optimizer, [weight, bias], range(2))
    assert calls == ["before", "before SGD", "after SGD", "after"] * 2


@every_kind
def test_a_step_pre_hook_may_replace_the_closure_and_change_gradients(make):
    (weight, bias), (plain, free) = weight_and_bias(), weight_and_bias()
    hooked, reference = (make(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (plain, free)))

    def halve(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[tuple, dict]:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)
        return (optimizer, lambda: "replaced"), kwargs

    hooked.register_step_pre_hook(halve)
    for t in range(10):
        weight.grad, bias.grad = numbers(10, 5, seed=t), numbers(10, seed=50 + t)
        plain.grad, free.grad = weight.grad / 2, bias.grad / 2
        assert hooked.step() == "replaced"
        reference.step()
    assert torch.equal(weight, plain) and torch.equal(bias, free)


@every_kind
def test_state_dict_hooks_fire_in_order_and_may_change_or_replace_the_state(make):
    weight, bias = weight_and_bias()
    optimizer = make(groups_of(weight, bias), lr=1e-2, **ACTING)
    feed(optimizer, [weight, bias], range(3))
    calls: list[str] = []

    def before(name: str) -> Callable[[torch.optim.Optimizer], None]:
        def hook(which: torch.optim.Optimizer) -> None:
            assert which is optimizer
            calls.append(name)
            which.param_groups[0]["lr"] = 2.0

        return hook

    def in_place(which: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        assert which is optimizer and state["param_groups"][0]["lr"] == 2
        calls.append("in place")
        state["mine"] = 1

    def replace(which: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("replace")
        return {**state, "mine": state.get("mine", 0) + 10}

    handles = [
        optimizer.register_state_dict_pre_hook(before("second")),
        optimizer.register_state_dict_pre_hook(before("first"), prepend=True),
        optimizer.register_state_dict_post_hook(replace),
        optimizer.register_state_dict_post_hook(in_place, prepend=True),
    ]
    state = optimizer.state_dict()
    assert calls == ["first", "second", "in place", "replace"]
    assert state["mine"] == 11
    assert_equal_states(state["state"], everything(optimizer))
    for handle in handles:
        handle.remove()
    calls.clear()
    assert "mine" not in optimizer.state_dict()
    assert not calls


@every_kind
def test_load_state_dict_hooks_fire_in_order_and_may_change_or_replace_the_state(make):
    (weight, bias), (again, free) = weight_and_bias(), weight_and_bias()
    saved, optimizer = (make(groups_of(*pair), lr=1e-2, **ACTING) for pair in ((weight, bias), (again, free)))
    feed(saved, [weight, bias], range(3))
    given = copy.deepcopy(saved.state_dict())
    calls: list[Any] = []

    def in_place(which: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        assert which is optimizer and not which.state
        calls.append("in place")
        state["param_groups"] = [group | {"lr": 0.5} for group in state["param_groups"]]

    def replace(which: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        calls.append("replace")
        return state | {"param_groups": [group | {"lr": group["lr"] / 4} for group in state["param_groups"]]}

    def after(name: str) -> Callable[[torch.optim.Optimizer], None]:
        return lambda which: calls.append((name, which.state[again]["step"].item(), which.param_groups[0]["lr"]))

    handles = [
        optimizer.register_load_state_dict_pre_hook(replace),
        optimizer.register_load_state_dict_pre_hook(in_place, prepend=True),
        optimizer.register_load_state_dict_post_hook(after("second")),
        optimizer.register_load_state_dict_post_hook(after("first"), prepend=True),
    ]
    optimizer.load_state_dict(given)
    assert calls == ["in place", "replace", ("first", 3, 0.125), ("second", 3, 0.125)]
    assert given["param_groups"][0]["lr"] == 1e-2  # the caller's own is not touched
    assert multiplier(optimizer, again) == multiplier(saved, weight) > 0
    for handle in handles:
        handle.remove()
    calls.clear()
    optimizer.load_state_dict(given)
    assert not calls
    assert optimizer.param_groups[0]["lr"] == 1e-2


def test_a_load_pre_hook_may_supply_another_optimizer_s_state():
    (weight, bias), (again, free) = weight_and_bias(), weight_and_bias()
    adam = torch.optim.AdamW([{"params": [weight]}, {"params": [bias]}], lr=1e-2)
    feed(adam, [weight, bias], range(3))
    optimizer = AdamCPR(groups_of(again, free), lr=1e-2, **ACTING)
    optimizer.register_load_state_dict_pre_hook(lambda which, state: {"state": state["adam"]["state"], **state["adam"]})
    optimizer.load_state_dict({"adam": adam.state_dict()})
    assert torch.equal(optimizer.state[again]["exp_avg"], adam.state[weight]["exp_avg"])
    assert optimizer.state[free]["step"] == 3


# --- memory


class Largest(TorchDispatchMode):
    """Record the size of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.element_size())
        return result


@pytest.mark.parametrize("measure", ["l2", "l1", "huber", "std"])
@pytest.mark.parametrize("make", [AdamCPR, of_kernel("eager"), KINDS["CPR around SGD"]])
def test_no_operation_of_a_step_makes_a_tensor_of_a_parameter_s_size(make, measure):
    weight = nn.Parameter(0.1 * numbers(600, 500))
    optimizer = make([{"params": [weight], "regularize": True}], lr=1e-2, reg_function=measure, **ACTING)
    feed(optimizer, [weight], range(2))
    with Largest() as largest:
        optimizer.step()
    assert largest.elements < weight.numel() / 4


@every_kind
@every_bound
def test_an_ordinary_loop_learns_without_a_warning(make, bound):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    groups = groups_of(model[0].weight, model[0].bias)
    groups[0]["params"].append(model[2].weight)
    groups[1]["params"].append(model[2].bias)
    inputs = numbers(16, 5)
    gc.collect()  # collects optimizers of other tests, which may warn that no bound was set
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = make(groups, lr=1e-2, **bound)
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, 30)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            losses.append(loss := (model(inputs) - inputs.sum(1, keepdim=True)).square().mean())
            loss.backward()
            optimizer.step()
            schedule.step()
        del optimizer
    assert losses[-1] < 0.8 * losses[0]
