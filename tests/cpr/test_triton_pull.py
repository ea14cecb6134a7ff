"""The pull of a whole pack in one launch (cpr/kernels/triton_pull.py) equals cpr/bounds.py."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import device

from cpr import bounds
from cpr.kernels import gpu
from cpr.measures import MEASURES
from cpr.settings import ADAPTIVE, checked_defaults


class Pack:
    """The part of a pack that a plan needs."""


MATRICES = 130  # more than one program handles
DEVICE = device("triton")


@st.composite
def groups(draw: st.DrawFn) -> dict:
    """Return the settings of a parameter group without the measure."""
    method = draw(st.sampled_from(bounds.METHODS))
    parameter = {"uniform": 0.3, "dependent": 2.0, "warm_start": draw(st.integers(0, 12))}.get(method)
    lr = draw(st.sampled_from([0.0, 1e-3, 0.5]))
    group = checked_defaults(
        kappa_init_method=method,
        kappa_init_param=parameter,
        reg_function="l2",
        kappa_update=draw(st.sampled_from([0.01, 1.0, 10.0])),
        reg_step_size=draw(st.integers(1, 3)),
        reg_ema_decay=draw(st.sampled_from([0.0, 0.9])) if method == "inflection_point" else 0.0,
        reg_by_lr=draw(st.booleans()),
        evaluate_at="before",
        adaptive=draw(st.sampled_from(ADAPTIVE)),
        safeguard=draw(st.booleans()),
    )
    return group | {"lr": torch.tensor(lr, device=DEVICE) if draw(st.booleans()) else lr}


def matrices(group: dict, seed: int) -> dict:
    """Return scalars of many matrices during training: some at rest, some zero, some far above their bounds."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*choices: float) -> torch.Tensor:
        values = torch.tensor(choices)[torch.randint(len(choices), (MATRICES,), generator=generator)]
        return (values * (0.5 + torch.rand(MATRICES, generator=generator))).to(DEVICE)

    n = torch.tensor([2.0, 3, 10, 1000]).double()[torch.randint(4, (MATRICES,), generator=generator)].to(DEVICE)
    value = drawn(0, 0.01, 0.3, 1, 30).double()
    second = n * drawn(0, 0.1).double() * value.sqrt()
    scalars = {"step": drawn(0, 4, 12).round(), "lagmul": drawn(0, 0, 1e-3, 0.2), "kappa": drawn(0.01, 0.3, 1)}
    scalars["kappa_set"] = drawn(0, 1) > 0
    if group["kappa_init_method"] == "inflection_point":
        scalars |= {"sample": drawn(0.3, torch.inf), "growth": drawn(-0.1, 0.1, -torch.inf)}
        if group["reg_ema_decay"]:
            scalars["smoothed"] = drawn(0.3, 1)
    if group["adaptive"] == "latched":
        scalars["was_active"] = drawn(0, 1) > 0
    return {"n": n, "sums": torch.stack([n * value, second], dim=1), "scalars": scalars}


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(group=groups(), seed=st.integers(0, 1000))
def test_the_pull_kernel_equals_the_rules_in_torch_s_operations(measure, group, seed):
    pytest.importorskip("triton")
    group |= {"reg_function": measure}
    made = matrices(group, seed)
    expected = {name: vector.clone() for name, vector in made["scalars"].items()}
    pull = bounds.constrain(group, expected, expected["step"], made["sums"], made["n"])

    tensors = [torch.zeros(1, device=DEVICE)] * MATRICES
    found = gpu.constrain(
        SimpleNamespace(pack=Pack(), whole=True, tensors=tensors, group=group, measure=MEASURES[measure], **made)
    )
    for name, vector in expected.items():
        torch.testing.assert_close(
            made["scalars"][name], vector, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )
    rows = zip(pull._fields, pull, found, strict=True)
    for name, row, ours in list(rows)[: 1 if measure == "l2" else 4]:
        torch.testing.assert_close(ours, row, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
