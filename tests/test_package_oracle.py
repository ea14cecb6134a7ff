"""Against the authors' package, pytorch-cpr 0.3.1: where the two agree, and where ours differs on purpose."""

import pytest
import pytorch_cpr
import torch

from cpr import AdamCPR


@pytest.mark.parametrize(("method", "parameter"), [("dependent", 1.2), ("warm_start", 20)])
def test_evaluated_after_the_step_both_agree(method, parameter):
    torch.manual_seed(0)
    start = 0.1 * torch.randn(12, 7)
    a, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    arguments = {"lr": 3e-3, "kappa_init_method": method, "kappa_init_param": parameter}
    ours = AdamCPR([{"params": [a], "regularize": True}], evaluate_at="after", **arguments)
    theirs = pytorch_cpr.AdamCPR([{"params": [b], "regularize": True}], foreach=True, **arguments)
    for _ in range(300):
        a.grad = torch.randn(12, 7) - 0.5 * start.sign()
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert ours.state[a]["lagmul"].item() == pytest.approx(theirs.state[b]["lagmul"].item(), rel=1e-3)
    assert theirs.state[b]["kappa"].item() == pytest.approx(start.numel() * ours.state[a]["kappa"].item(), rel=1e-5)


def test_a_plain_list_is_silently_not_regularized_there_and_an_error_here():
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    assert not pytorch_cpr.AdamCPR([parameter]).param_groups[0]["regularize"]
    with pytest.raises(ValueError, match="no parameter is regularized"):
        AdamCPR([parameter])
