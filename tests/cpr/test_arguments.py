"""Arguments out of range are refused, and the message has the value."""

import pytest
import torch
from torch import nn

from cpr import CPR, AdamCPR


def start(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.05 * torch.randn(6, 5, generator=torch.Generator().manual_seed(3))).to(dtype)


def optimizer_of(parameter: nn.Parameter, **options) -> AdamCPR:
    return AdamCPR([{"params": [parameter], "regularize": True}], **({"lr": 1e-2} | options))


IP = {"kappa_init_method": "inflection_point"}
BAD_CPR = [
    ({"kappa_init_method": "uniform", "kappa_init_param": 0}, "kappa_init_param=0 "),
    ({"kappa_init_method": "uniform", "kappa_init_param": -0.25}, "kappa_init_param=-0.25 "),
    ({"kappa_init_method": "uniform"}, "kappa_init_param=None "),
    ({"kappa_init_method": "uniform", "kappa_init_param": float("nan")}, "kappa_init_param=nan "),
    ({"kappa_init_method": "dependent", "kappa_init_param": -3}, "kappa_init_param=-3 "),
    ({"kappa_init_method": "dependent", "kappa_init_param": float("inf")}, "kappa_init_param=inf "),
    ({"kappa_init_method": "warm_start", "kappa_init_param": -5}, "kappa_init_param=-5 "),
    ({"kappa_init_method": "warm_start", "kappa_init_param": 2.5}, "kappa_init_param=2.5 "),
    ({"kappa_init_method": "warm_start", "kappa_init_param": float("inf")}, "kappa_init_param=inf "),
    ({"kappa_init_method": "kappa_x"}, "kappa_init_method='kappa_x'"),
    ({"reg_function": "l3"}, "reg_function='l3'"),
    ({"evaluate_at": "during"}, "evaluate_at='during'"),
    ({"adaptive": "always"}, "adaptive='always'"),
    ({"adaptive": True}, "adaptive=True"),
    ({"kappa_update": 0}, "kappa_update=0 "),
    ({"kappa_update": -1.5}, "kappa_update=-1.5 "),
    ({"kappa_update": float("nan")}, "kappa_update=nan "),
    (IP | {"reg_step_size": 0}, "reg_step_size=0 "),
    (IP | {"reg_step_size": 2.5}, "reg_step_size=2.5 "),
    (IP | {"reg_step_size": float("inf")}, "reg_step_size=inf "),
    (IP | {"reg_ema_decay": 1.0}, "reg_ema_decay=1.0 "),
    (IP | {"reg_ema_decay": -0.1}, "reg_ema_decay=-0.1 "),
]
BAD_ADAM = [
    ({"lr": -0.125}, "lr=-0.125 "),
    ({"lr": float("nan")}, "lr=nan "),
    ({"eps": -1e-3}, "eps=-0.001 "),
    ({"betas": (0.9, 1.0)}, "betas=(0.9, 1.0) "),
    ({"betas": (-0.5, 0.9)}, "betas=(-0.5, 0.9) "),
]


@pytest.mark.parametrize(("options", "text"), BAD_CPR + BAD_ADAM, ids=lambda x: x if isinstance(x, str) else "")
def test_a_bad_argument_is_refused_with_its_value(options, text):
    with pytest.raises(ValueError) as error:
        optimizer_of(nn.Parameter(start()), **options)
    assert text.strip() in str(error.value)


@pytest.mark.parametrize(("options", "text"), BAD_CPR, ids=lambda x: x if isinstance(x, str) else "")
def test_the_wrapper_refuses_the_same_arguments(options, text):
    base = torch.optim.SGD([{"params": [nn.Parameter(start())], "regularize": True}], lr=0.1)
    with pytest.raises(ValueError) as error:
        CPR(base, **options)
    assert text.strip() in str(error.value)


@pytest.mark.parametrize(("options", "text"), BAD_CPR, ids=lambda x: x if isinstance(x, str) else "")
def test_a_bad_argument_of_a_group_is_refused_with_its_value(options, text):
    with pytest.raises(ValueError) as error:
        AdamCPR([{"params": [nn.Parameter(start())], "regularize": True, **options}])
    assert text.strip() in str(error.value)


def test_a_group_s_warm_start_without_a_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="kappa_init_param=None"):
        AdamCPR([{"params": [nn.Parameter(start())], "regularize": True, "kappa_init_method": "warm_start"}])


def test_weight_decay_beside_regularize_false_is_refused_with_its_value():
    a, b = nn.Parameter(start()), nn.Parameter(start())
    with pytest.raises(ValueError, match=r"weight_decay=0\.375"):
        AdamCPR([{"params": [a], "regularize": True}, {"params": [b], "regularize": False, "weight_decay": 0.375}])


@pytest.mark.parametrize(
    "groups", [[], [{"regularize": False}], [{"weight_decay": 0.0}]], ids=["list", "regularize=False", "no decay"]
)
def test_nothing_regularized_is_refused(groups):
    parameter = nn.Parameter(start())
    with pytest.raises(ValueError, match="no parameter is regularized"):
        AdamCPR([group | {"params": [parameter]} for group in groups] or [parameter])


def test_a_regularized_complex_matrix_is_refused_and_an_unregularized_one_is_trained():
    real, imaginary = nn.Parameter(start()), nn.Parameter(start().to(torch.complex64))
    with pytest.raises(ValueError, match="complex"):
        AdamCPR([{"params": [imaginary], "regularize": True}])
    optimizer = AdamCPR([{"params": [real], "regularize": True}, {"params": [imaginary], "regularize": False}])
    before = imaginary.detach().clone()
    imaginary.grad = torch.ones_like(imaginary)
    optimizer.step()
    assert not torch.equal(imaginary, before)


def test_std_of_a_single_number_is_refused():
    with pytest.raises(ValueError, match="at least two elements"):
        optimizer_of(nn.Parameter(torch.ones(1, 1)), reg_function="std")
