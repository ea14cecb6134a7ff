"""A step never waits for the device, so it can be captured, compiled and queued."""

from itertools import pairwise

import pytest
import torch
from paths import device, optimizer, outward
from torch.utils._python_dispatch import TorchDispatchMode

from cpr import CPR, AdamCPR, regularized_groups

BOUND = {"kappa_init_method": "warm_start", "kappa_init_param": 3}
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
queued_paths = pytest.mark.parametrize("path", ["eager", "triton"])
# Operations that copy a value, or a size that depends on values, from the device to the host.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "item"}


class Forbidden(TorchDispatchMode):
    """Fail at the first operation at which the host would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        assert not (name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])), (
            "an index by bools waits"
        )
        return func(*args, **(kwargs or {}))


def gradients(steps: int = 8):
    starts, pushes = outward([(6, 5), (300, 7)], steps, seed=0)
    return [s.float() for s in starts], [[g.float() for g in step] for step in pushes]


def test_the_detector_detects():
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"), Forbidden():
        torch.ones(1).item()
    with pytest.raises(AssertionError, match="index by bools"), Forbidden():
        torch.ones(3)[torch.ones(3, dtype=torch.bool)]


@queued_paths
@pytest.mark.parametrize("measure", ["l2", "l1", "huber", "std"])
@pytest.mark.parametrize(
    "options",
    [
        BOUND | {"reg_by_lr": True},
        {"kappa_init_method": "inflection_point", "reg_step_size": 1, "reg_ema_decay": 0.5},
        BOUND | {"adaptive": "transition", "evaluate_at": "after"},
        BOUND | {"adaptive": "latched", "amsgrad": True},
    ],
    ids=["by_lr", "IP", "adaptive", "latched"],
)
def test_no_step_after_the_first_waits_for_the_device(path, measure, options):
    starts, pushes = gradients()
    ours, parameters = optimizer(
        path, starts, lr=torch.tensor(1e-2, device=device(path)), reg_function=measure, **options
    )
    for t, step in enumerate(pushes):
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient.to(p.device)
        if t == 0:
            ours.step()  # makes the state
        else:
            with Forbidden():
                ours.step()
    assert all(ours.state[p]["step"] == len(pushes) for p in parameters)


# Whether each of the two matrices has a gradient, step by step.
COME_AND_GO = [(True, True), (True, True), (True, False), (True, False), (False, True), (True, True), (True, True)]


def come_and_go(wrapped: bool, measure: str = "l2"):
    """Yield the optimizer and its parameters before every step. The parameters have that step's gradients."""
    starts, pushes = gradients(len(COME_AND_GO))
    parameters = [torch.nn.Parameter(start) for start in starts]
    groups, options = [{"params": parameters, "regularize": True}], BOUND | {"reg_function": measure}
    ours = (
        CPR(torch.optim.SGD(groups, lr=1e-2), **options)
        if wrapped
        else AdamCPR(groups, lr=1e-2, kernel="eager", **options)
    )
    for step, present in zip(pushes, COME_AND_GO, strict=True):
        for p, gradient, is_there in zip(parameters, step, present, strict=True):
            p.grad = gradient if is_there else None
        yield ours, parameters


# Triton's path is left out: it reads tables on the host, and a CPU can't tell host from device.
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("measure", ["l2", "l1", "huber", "std"])
def test_gradients_that_come_and_go_cause_no_copy_to_the_host(wrapped, measure):
    for t, (ours, parameters) in enumerate(come_and_go(wrapped, measure), start=1):
        with Forbidden():
            ours.step()
        assert [ours.state[p]["step"].item() for p in parameters] == [
            sum(column) for column in zip(*COME_AND_GO[:t], strict=True)
        ]


@pytest.mark.parametrize("wrapped", [False, True])
def test_address_tables_are_rebuilt_only_when_the_set_of_gradients_changes(wrapped, monkeypatch):
    made, make = [], torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: made.append(args) or make(*args, **kwargs))
    counts = []
    for ours, _ in come_and_go(wrapped):
        made.clear()
        ours.step()
        counts.append(len(made))
    unchanged = [t for t, (before, now) in enumerate(pairwise(COME_AND_GO), start=1) if before == now]
    assert counts[0] > 0
    assert [counts[t] for t in unchanged] == [0, 0, 0]


@needs_a_gpu
@queued_paths
def test_no_step_after_the_first_waits_for_the_gpu(path):
    starts, pushes = gradients()
    ours, parameters = optimizer(path, [s.cuda() for s in starts], lr=1e-2, **BOUND)
    for t, step in enumerate(pushes):
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient.to(p.device)
        torch.cuda.set_sync_debug_mode("error" if t else "default")
        try:
            ours.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_a_gpu
def test_a_step_captured_in_a_cuda_graph_equals_an_uncaptured_step():
    starts, pushes = gradients(20)
    ends = []
    for captured in (False, True):
        ours, parameters = optimizer(
            "triton", [s.cuda() for s in starts], lr=torch.tensor(1e-2, device="cuda"), **BOUND
        )
        for p in parameters:
            p.grad = torch.zeros_like(p)
        graph = torch.cuda.CUDAGraph()
        for t, step in enumerate(pushes):
            for p, gradient in zip(parameters, step, strict=True):
                p.grad.copy_(gradient)
            if captured and t == 3:
                with torch.cuda.graph(graph):
                    ours.step()
            if captured and t >= 3:
                graph.replay()
            else:
                ours.step()
        ends.append([p.detach().clone() for p in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@needs_a_gpu
def test_a_captured_training_step_with_its_backward_pass_equals_an_uncaptured_one():
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(32, 8, generator=generator).cuda(), 5 * torch.randn(32, 1, generator=generator).cuda())
        for _ in range(20)
    ]
    ends = []
    for captured in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).cuda()
        ours = AdamCPR(net, lr=torch.tensor(1e-2, device="cuda"), **BOUND)
        inputs, targets = (torch.empty_like(tensor) for tensor in batches[0])

        def training_step(net=net, ours=ours, inputs=inputs, targets=targets):
            ours.zero_grad(set_to_none=True)
            ((net(inputs) - targets) ** 2).mean().backward()
            ours.step()

        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for t, (x, y) in enumerate(batches):
                inputs.copy_(x)
                targets.copy_(y)
                if captured and t == 3:
                    ours.zero_grad(set_to_none=True)
                    with torch.cuda.graph(graph, stream=side):
                        training_step()
                if captured and t >= 3:
                    graph.replay()
                    torch.empty(10**6, device="cuda").fill_(-1.0)  # overwrites the memory of a freed table
                else:
                    training_step()
        torch.cuda.current_stream().wait_stream(side)
        assert ours.state[net[0].weight]["lagmul"] > 0
        ends.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_step_writes_its_sums_to_the_same_memory_as_the_step_before():
    """A captured step reads the sums at every replay from the address at capture."""
    starts, pushes = gradients()
    ours, parameters = optimizer("triton", starts, lr=1e-2, **BOUND)
    places = []
    for step in pushes:
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient.to(p.device)
        ours.step()
        (pack,) = ours._packs._known[0][1]
        places.append(pack.sums.data_ptr())
    assert len(set(places)) == 1


@pytest.mark.parametrize("make", ["eager", "cpu", "wrapper"])
def test_a_compiled_training_step_is_the_same_to_the_bit(make):
    torch.manual_seed(0)
    inputs, targets = torch.randn(32, 8), 5 * torch.randn(32, 1)
    start = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).state_dict()
    ends = []
    for compiled in (False, True):
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        net.load_state_dict(start)
        groups = regularized_groups(net)
        ours = (
            CPR(torch.optim.SGD(groups, lr=1e-2), **BOUND)
            if make == "wrapper"
            else AdamCPR(groups, lr=1e-2, kernel=make, **BOUND)
        )
        step = torch.compile(ours.step, backend="eager") if compiled else ours.step
        for _ in range(20):
            ours.zero_grad()
            ((net(inputs) - targets) ** 2).mean().backward()
            step()
        assert ours.state[net[0].weight]["lagmul"] > 0
        ends.append(list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_step_is_a_graph_break():
    (start,), _ = outward([(6, 5)], steps=1, seed=0)
    parameter = torch.nn.Parameter(start)
    ours = AdamCPR([{"params": [parameter], "regularize": True}])
    parameter.grad = torch.ones_like(parameter)

    def training_step():
        ours.step()
        return parameter.sum()

    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        torch.compile(training_step, backend="eager", fullgraph=True)()
