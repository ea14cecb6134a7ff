"""The compiled single-pass kernel equals torch's own operations."""

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr import CPR, AdamCPR
from cpr.kernels import cpu, eager
from cpr.measures import MEASURES
from scripts.bench.memory import extra_peak_bytes

ROOT = Path(__file__).resolve().parents[2]
every_measure = pytest.mark.parametrize("measure", MEASURES)
either_dtype = pytest.mark.parametrize("dtype", cpu.DTYPES, ids=["float32", "bfloat16"])
# Sizes near the kernel's vectors of 8 or 16 elements, blocks of 1,024 and chunks of 16,384.
SIZES = (1, 2, 15, 16, 17, 63, 1023, 1024, 1025, 16_383, 16_384, 16_385, 40_000)
WS = {"kappa_init_method": "warm_start", "kappa_init_param": 3}


def matrices(sizes, dtype=torch.float32, seed=0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter((0.05 * torch.randn(1, n, generator=generator)).to(dtype)) for n in sizes]


def optimizer_of(parameters, path: str, **options) -> AdamCPR | CPR:
    """Return AdamCPR with the kernel `path`, or CPR around SGD for "wrapper"."""
    groups = [{"params": parameters, "regularize": True}]
    if path == "wrapper":
        # A power of two. With another lr, the last bit of torch's bfloat16 update depends on the number of threads.
        return CPR(torch.optim.SGD(groups, lr=2**-7), **(WS | options))
    return AdamCPR(groups, lr=1e-2, kernel=path, **(WS | options))


def trained(parameters, path: str, steps: int = 12, **options) -> AdamCPR | CPR:
    """Return the parameters after some outward steps, which the bound pulls back."""
    optimizer = optimizer_of(parameters, path, **options)
    generator = torch.Generator().manual_seed(1)
    signs = [p.detach().sign() for p in parameters]
    for _ in range(steps):
        for p, sign in zip(parameters, signs, strict=True):
            p.grad = (torch.randn(p.shape, generator=generator) - sign).to(p.dtype)
        optimizer.step()
    return optimizer


@every_measure
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "maximize": True}, {"evaluate_at": "after"}], ids=["", "amsgrad", "after"]
)
def test_the_kernel_equals_torch_s_operations_at_every_size(measure, options):
    sizes = SIZES[1:] if measure == "std" else SIZES
    ours, theirs = matrices(sizes), matrices(sizes)
    fast = trained(ours, "cpu", reg_function=measure, **options)
    slow = trained(theirs, "eager", reg_function=measure, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 2e-6
        assert fast.state[a]["lagmul"].item() == pytest.approx(slow.state[b]["lagmul"].item(), rel=1e-3, abs=1e-6)
        assert fast.state[a]["kappa"].item() == pytest.approx(slow.state[b]["kappa"].item(), rel=1e-5)
    assert options.get("maximize") or all(fast.state[p]["lagmul"] > 0 for p in ours)


@either_dtype
@every_measure
@settings(max_examples=15, deadline=None, derandomize=True)
@given(n=st.integers(2, 50_000), seed=st.integers(0, 1000))
def test_the_sums_of_a_step_are_those_of_the_written_matrix_to_the_bit(measure, dtype, n, seed):
    parameters = matrices([n, 7], dtype, seed)
    optimizer = trained(parameters, "cpu", steps=4, reg_function=measure)
    (pack,) = optimizer._packs._known[0][1]
    left = pack.sums.clone()
    (now,) = optimizer._packs.gather([(0, optimizer.param_groups[0], False)], optimizer.state, optimizer.name_of)
    pack.sums.fill_(-1)
    now.kernel.refresh(now)
    assert (pack.sums == -1).all()  # nothing has changed since the step
    assert torch.equal(left, cpu.sums(now.tensors, MEASURES[measure]))
    if dtype == torch.float32:
        exact = eager.sums([t.double() for t in now.tensors], MEASURES[measure])
        assert (left[:, 0] - exact[:, 0]).abs().max() <= 1e-6 * exact[:, 0].abs().max()


@either_dtype
@every_measure
@pytest.mark.parametrize("path", ["cpu", "eager", "wrapper"])
def test_the_number_of_threads_changes_no_bit(path, measure, dtype):
    ends = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        parameters = matrices([150_001, 3, 20_000], dtype)
        optimizer = trained(parameters, path, steps=6, reg_function=measure)  # three of them with a bound
        ends.append([*parameters, *(optimizer.state[p]["lagmul"] for p in parameters)])
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True))


@every_measure
@pytest.mark.parametrize("evaluate_at", ["before", "after"])
@pytest.mark.parametrize("path", ["cpu", "eager", "wrapper"])
def test_a_step_makes_no_temporary_of_the_parameter_s_size(path, evaluate_at, measure):
    (parameter,) = matrices([8_000_001])  # 32 MB, and 64 MB in float64
    optimizer = optimizer_of([parameter], path, kappa_init_param=1, reg_function=measure, evaluate_at=evaluate_at)
    parameter.grad = -parameter.detach().sign()
    for _ in range(2):
        optimizer.step()
    extra = extra_peak_bytes(optimizer.step, parameter.device)
    assert optimizer.state[parameter]["lagmul"] > 0
    assert extra is None or extra <= 4_000_000  # 1 MB of pieces, and the allocator keeps up to 2 MB of them


def test_channels_last_weights_and_gradients_of_another_layout_are_handled():
    start = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    ends = []
    for layout, gradient_layout in (
        (torch.contiguous_format,) * 2,
        (torch.channels_last, torch.contiguous_format),
        (torch.channels_last,) * 2,
    ):
        parameter = torch.nn.Parameter(start.clone().to(memory_format=layout))
        optimizer = AdamCPR([{"params": [parameter], "regularize": True}], lr=1e-2, kernel="cpu", **WS)
        for _ in range(6):
            parameter.grad = -start.sign().to(memory_format=gradient_layout)
            optimizer.step()
        ends.append(parameter.detach())
    assert all((end - ends[0]).abs().max() <= 1e-6 for end in ends)


def test_gradients_in_another_layout_have_one_copy_at_a_time():
    sizes = [(64, 64, 100, 5)] * 4  # 8 MB each
    parameters = [torch.nn.Parameter(torch.full(size, 0.1).to(memory_format=torch.channels_last)) for size in sizes]
    optimizer = optimizer_of(parameters, "cpu")
    for p in parameters:
        p.grad = torch.ones(p.shape)
    optimizer.step()
    assert all(p.grad.stride() != p.stride() for p in parameters)
    extra = extra_peak_bytes(optimizer.step, parameters[0].device)
    assert extra is None or 8e6 <= extra <= 9.5e6


def test_a_gradient_of_another_layout_changes_no_bit_of_any_matrix():
    ends = []
    for other in (False, True):
        parameters = [
            torch.nn.Parameter(0.01 * torch.arange(1.0, 1 + 2 * n).view(1, 2, n, 1)) for n in (5, 7, 20_000, 9, 3)
        ]
        optimizer = optimizer_of(parameters, "cpu")
        for step in range(6):
            for i, p in enumerate(parameters):
                gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i)) - 1
                p.grad = gradient.to(
                    memory_format=torch.channels_last if other and i in (0, 2, 4) else torch.contiguous_format
                )
            optimizer.step()
        ends.append([*parameters, *(optimizer.state[p]["lagmul"] for p in parameters)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_moments_saved_in_one_memory_format_continue_in_another():
    start = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    gradients = [torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(step)) for step in range(8)]
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = AdamCPR([{"params": [parameter], "regularize": True}], lr=1e-2, kernel="cpu", **WS)
        for step, gradient in enumerate(gradients):
            if step == 4:
                saved = optimizer.state_dict()
                parameter = torch.nn.Parameter(parameter.detach().clone(memory_format=layout))
                optimizer = AdamCPR([{"params": [parameter], "regularize": True}], lr=1e-2, kernel="cpu", **WS)
                optimizer.load_state_dict(saved)
            parameter.grad = gradient.clone()
            optimizer.step()
        ends.append(parameter.detach())
    assert (ends[0] - ends[1]).abs().max() <= 1e-6


def plain_step(**exchanged) -> None:
    """Call the kernel's step on two 4 x 3 matrices, with some arguments replaced."""
    count = 2
    lists = {name: [torch.ones(4, 3) for _ in range(count)] for name in ("params", "grads", "exp_avgs", "exp_avg_sqs")}
    tensors = {
        "steps": torch.zeros(count),
        "out": torch.zeros(count, 2, dtype=torch.float64),
        "marks": torch.zeros(count, dtype=torch.int64),
    }
    given = lists | tensors | exchanged
    torch.ops.cpr.step_(
        *(given[name] for name in lists), given.get("max_exp_avg_sqs", []), given["steps"], None, given["out"], given["marks"],
        MEASURES["l2"].code, 1e-3, 0.9, 0.999, 1e-8, False,
    )  # fmt: skip


SHORT, GAPS = torch.ones(3, 3), torch.ones(4, 6)[:, ::2]


@pytest.mark.parametrize(
    ("exchanged", "message"),
    [
        (
            {"exp_avgs": [torch.ones(4, 3), SHORT]},
            r"a moment of shape \[3, 3\] does not fit its parameter of shape \[4, 3\]",
        ),
        ({"exp_avg_sqs": [SHORT, torch.ones(4, 3)]}, "a moment of shape"),
        ({"max_exp_avg_sqs": [SHORT, SHORT]}, "a moment of shape"),
        ({"exp_avgs": [torch.ones(4, 3), torch.ones(3, 4).t()]}, "a moment of shape"),
        ({"exp_avgs": [torch.ones(4, 3), torch.ones(4, 3).double()]}, "a moment of shape"),
        ({"grads": [torch.ones(4, 3), SHORT]}, "a gradient of shape"),
        ({"params": [torch.ones(4, 3), GAPS]}, "gaps in its memory"),
        ({"params": [torch.ones(4, 3), torch.ones(1, 3).expand(4, 3)]}, "gaps in its memory"),
        ({"params": [torch.ones(4, 3), torch.ones(4, 3).bfloat16()]}, "another device or dtype"),
        ({"exp_avgs": [torch.ones(4, 3)]}, "differ in length"),
        ({"grads": [torch.ones(4, 3)]}, "differ in length"),
        ({"steps": torch.zeros(1)}, "differ in length"),
        ({"out": torch.zeros(1, 2, dtype=torch.float64)}, "differ in length"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_the_kernel_refuses_tensors_that_do_not_fit_before_it_writes(exchanged, message):
    trained(matrices([10]), "cpu", steps=1)  # loads the kernel
    plain_step()
    untouched = [tensor for value in exchanged.values() for tensor in (value if isinstance(value, list) else [value])]
    before = [tensor.clone() for tensor in untouched]
    with pytest.raises(RuntimeError, match=message):
        plain_step(**exchanged)
    assert all(torch.equal(a, b) for a, b in zip(before, untouched, strict=True))


def test_the_kernel_s_sums_and_pull_refuse_tensors_with_gaps_too():
    trained(matrices([10]), "cpu", steps=1)
    expanded = torch.ones(1, 3).expand(400, 3)
    for call in (
        lambda: torch.ops.cpr.sums_([expanded], torch.zeros(1, 2, dtype=torch.float64), 1),
        lambda: torch.ops.cpr.refresh_(
            [expanded], torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.float64), 1
        ),
        lambda: torch.ops.cpr.pull_([expanded], torch.full((4, 1), 0.5)),
        lambda: torch.ops.cpr.sums_([torch.ones(3, 3).double()], torch.zeros(1, 2, dtype=torch.float64), 1),
    ):
        with pytest.raises(RuntimeError, match="cpr: "):
            call()


def test_what_the_kernel_cannot_do_is_left_to_torch_or_refused():
    double, view = torch.nn.Parameter(torch.ones(3, 3).double()), torch.nn.Parameter(torch.ones(3, 6)[:, ::2])
    for parameter in (double, view):
        trained([parameter], "auto", steps=1)
        with pytest.raises(ValueError, match="kernel='cpu' cannot work on"):
            trained([parameter], "cpu", steps=1)
    with pytest.raises(ValueError, match="kernel='gpu' is unknown"):
        AdamCPR([{"params": [double], "regularize": True}], kernel="gpu")


def test_sparse_gradients_are_refused_with_the_shape():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = AdamCPR(embedding, reg_embedding=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"sparse gradients .*\(5, 3\)"):
        optimizer.step()


def test_loading_the_kernel_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(matrices([10]), "cpu", steps=1)
