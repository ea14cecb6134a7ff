"""Every kernel is right on every memory layout and dtype, through everything that happens to an optimizer.

The oracles are torch's Adam with foreach=False if no bound acts, and cpr/reference.py in float64 if
one does. Parameters, gradients and moments lie between guard elements, which no kernel may touch.
`make test-sanitizers` runs this file on a kernel built with AddressSanitizer.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from paths import device
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import CPR, AdamCPR
from cpr.reference import Reference

torch.set_num_threads(1)

GUARD = 12345.0
ROOM = 8  # guard elements on each side
NO_BOUND = {"kappa_init_method": "uniform", "kappa_init_param": 1e9}
BOUND = {"kappa_init_method": "dependent", "kappa_init_param": 1.05}
KERNELS = ("eager", "cpu", "triton", "wrapper")
PRECISION = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2**-6, torch.float16: 2**-8}
KNOWN = {"cpu": (torch.float32, torch.bfloat16), "triton": (torch.float32, torch.bfloat16)}
WEEKLY = {"triton": pytest.mark.weekly}  # its interpreter is slow
every_kernel = pytest.mark.parametrize(
    "kernel", [pytest.param(kernel, marks=WEEKLY.get(kernel, ())) for kernel in KERNELS]
)


@dataclass
class Guarded:
    """A tensor in a buffer, with a mask of the guard elements."""

    tensor: Tensor
    buffer: Tensor
    outside: Tensor

    def intact(self) -> bool:
        return bool((self.buffer[self.outside] == GUARD).all())


def guarded(values: Tensor, strides: tuple[int, ...] | None = None, shift: int = 0) -> Guarded:
    """Put a copy of the values into a buffer of guard elements, `shift` elements off the buffer's alignment."""
    strides = torch.empty(values.shape).stride() if strides is None else strides
    extent = (
        1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
        if values.numel()
        else 0
    )
    buffer = torch.full((2 * ROOM + shift + extent,), GUARD, dtype=values.dtype, device=values.device)
    outside = torch.ones_like(buffer, dtype=torch.bool)
    tensor, inside = (whole.as_strided(values.shape, strides, ROOM + shift) for whole in (buffer, outside))
    tensor.copy_(values)
    inside.fill_(False)
    return Guarded(tensor, buffer, outside)


def noise(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def transposed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, shape[0])


def sliced(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (2 * shape[1], 2)


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    _, c, h, w = shape
    return (c * h * w, 1, w * c, c)


@dataclass(frozen=True)
class Layout:
    """Shapes, with strides of parameters and gradients (None: contiguous).

    `fits` tells whether the single-pass kernels support the layout.
    """

    shapes: tuple[tuple[int, ...], ...]
    parameter: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
    gradient: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
    shift: int = 0
    expanded: bool = False
    fits: bool = True


PLAIN, CONVOLUTIONS = (
    ((5, 7), (129, 130)),
    ((4, 6, 3, 3), (3, 5, 1, 1)),
)  # 129 x 130: more than one chunk of the C++ kernel
LAYOUTS = {
    "contiguous": Layout(PLAIN),
    "channels_last": Layout(CONVOLUTIONS, channels_last, channels_last),
    "channels_last, plain gradient": Layout(CONVOLUTIONS, channels_last),
    "plain, channels_last gradient": Layout(CONVOLUTIONS, None, channels_last),
    "transposed": Layout(PLAIN, transposed, transposed),
    "transposed gradient": Layout(PLAIN, None, transposed),
    "sliced": Layout(PLAIN, sliced, None, fits=False),
    "sliced gradient": Layout(PLAIN, None, sliced),
    "expanded gradient": Layout(PLAIN, expanded=True),
    "sliced, expanded gradient": Layout(PLAIN, sliced, expanded=True, fits=False),
    "unaligned": Layout(PLAIN, shift=1),
    "0-dim": Layout(((), ())),
    "empty": Layout(((0, 3), (4, 5), (2, 0))),
    "size 1": Layout(((1,), (1, 1), (1, 1, 1))),
}


def optimizer_of(kernel: str, groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    if kernel == "torch":
        groups = [{key: value for key, value in group.items() if key != "regularize"} for group in groups]
        adam = {key: value for key, value in options.items() if key in ("lr", "betas", "eps", "amsgrad", "maximize")}
        return torch.optim.Adam(groups, foreach=False, **adam)
    if kernel == "wrapper":
        adam = {key: options.pop(key) for key in ("lr", "betas", "eps", "amsgrad", "maximize") if key in options}
        return CPR(torch.optim.Adam(groups, foreach=False, **adam), **options)
    return AdamCPR(groups, kernel=kernel, **options)


def for_kernel(layout: Layout, kernel: str) -> Layout:
    """Return smaller matrices of two blocks for Triton, because its interpreter is slow."""
    smaller = tuple((41, 30) if shape == (129, 130) else shape for shape in layout.shapes)
    return replace(layout, shapes=smaller) if kernel == "triton" else layout


def combinations() -> list[Any]:
    return [
        pytest.param(
            kernel, dtype, name, marks=WEEKLY.get(kernel, ()), id=f"{kernel}-{str(dtype).removeprefix('torch.')}-{name}"
        )
        for kernel in KERNELS
        for dtype in KNOWN.get(kernel, tuple(PRECISION))
        for name, layout in LAYOUTS.items()
        if layout.fits or kernel not in KNOWN
    ]


@pytest.mark.parametrize(("kernel", "dtype", "name"), combinations())
@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    beta1=st.sampled_from([0.0, 0.9]),
    eps=st.sampled_from([1e-4, 1e-2]),
    measure=st.sampled_from(["l2", "l1", "huber"]),
    after=st.booleans(),
)
def test_without_a_bound_it_is_torch_s_adam_and_changes_nothing_else(
    kernel, dtype, name, amsgrad, maximize, beta1, eps, measure, after
):
    layout = for_kernel(LAYOUTS[name], kernel)
    eps = max(eps, 1e-2) if dtype == torch.float16 else eps  # a smaller eps would be below the rounding of the squares
    adam = {"lr": 1e-2, "betas": (beta1, 0.98), "eps": eps, "amsgrad": amsgrad, "maximize": maximize}
    place = device(kernel)
    values = [noise(shape, seed, dtype).to(place) for seed, shape in enumerate(layout.shapes)]
    strides = [layout.parameter and layout.parameter(shape) for shape in layout.shapes]
    held = [guarded(value, stride, layout.shift) for value, stride in zip(values, strides, strict=True)]
    ours, theirs = [nn.Parameter(one.tensor) for one in held], [nn.Parameter(value.clone()) for value in values]
    options = {"reg_function": measure, "evaluate_at": "after" if after else "before"}
    optimizer = optimizer_of(kernel, [{"params": ours, "regularize": True}], **adam, **options, **NO_BOUND)
    oracle = optimizer_of("torch", [{"params": theirs}], **adam)
    moments: list[Guarded] = []
    for t in range(4):
        gradients: list[Guarded] = []
        for p, q, shape in zip(ours, theirs, layout.shapes, strict=True):
            g = noise(shape, 100 + 10 * t + len(gradients), dtype).to(place)
            if layout.expanded:
                g = g[:1].expand(shape)
                p.grad = g
            else:
                gradients.append(guarded(g, layout.gradient and layout.gradient(shape), layout.shift))
                p.grad = gradients[-1].tensor
            q.grad = g.clone()
        versions = [p._version for p in ours]
        optimizer.step()
        oracle.step()
        assert all(p._version > before for p, before in zip(ours, versions, strict=True))  # autograd relies on it
        assert all(one.intact() for one in (*held, *moments, *gradients))
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours, theirs, strict=True))
        if t == 0 and kernel != "wrapper":
            moments = _guard_moments(optimizer, ours, layout.shift)
    # Triton's interpreter truncates the bits that a GPU rounds.
    precision = PRECISION[dtype] * (4 if kernel == "triton" and dtype == torch.bfloat16 else 1)
    for p, q in zip(ours, theirs, strict=True):
        assert (p - q).abs().max().item() <= precision * max(1.0, q.abs().max().item()) if q.numel() else True


def _guard_moments(optimizer: Optimizer, parameters: list[nn.Parameter], shift: int) -> list[Guarded]:
    """Replace every moment by a copy between guard elements."""
    held = []
    for p in parameters:
        for moment in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            if moment in optimizer.state[p]:
                value = optimizer.state[p][moment]
                held.append(guarded(value, value.stride(), shift))
                optimizer.state[p][moment] = held[-1].tensor
    return held


# --- 12 steps, with an event in the middle

STEPS, MOMENT = 12, 5


@dataclass
class World:
    """An optimizer with its parameters, and a function that makes another one like it."""

    make: Callable[[list[dict[str, Any]]], Optimizer]
    parameters: list[nn.Parameter]
    optimizer: Optimizer = field(init=False)
    resting: Callable[[int, int], bool] = lambda i, t: False

    def __post_init__(self) -> None:
        self.optimizer = self.make([{"params": list(self.parameters), "regularize": True}])

    def step(self, t: int) -> None:
        for i, p in enumerate(self.parameters):
            p.grad = None if self.resting(i, t) else gradient(p, i, t)
        self.optimizer.step()


def gradient(p: Tensor, i: int, t: int) -> Tensor:
    """Return noise that pushes a matrix outward with falling strength."""
    g = noise(tuple(p.shape), 100 * t + i) - 1.5 * 0.95**t * noise(tuple(p.shape), i).sign()
    return torch.empty_like(p).copy_(g)


def load(world: World) -> None:
    saved = copy.deepcopy(world.optimizer.state_dict())
    world.optimizer = world.make([{"params": list(world.parameters), "regularize": True}])
    world.optimizer.load_state_dict(saved)


def offload_and_reload(world: World) -> None:
    for _ in range(2):
        for entry in world.optimizer.state.values():
            for name, value in entry.items():
                if isinstance(value, Tensor):
                    entry[name] = value.to("cpu", copy=True)


def clear_state(world: World) -> None:
    world.optimizer.state.clear()
    if isinstance(world.optimizer, CPR):
        world.optimizer.optimizer.state.clear()


def change_group(world: World) -> None:
    world.optimizer.param_groups[0].update(lr=3e-3, betas=(0.5, 0.9), eps=1e-3)


def freeze_and_unfreeze(world: World) -> None:
    world.resting = lambda i, t: i == 0 and t < MOMENT + 3


def take_turns(world: World) -> None:
    world.resting = lambda i, t: i == t % len(world.parameters)


def add_group(world: World) -> None:
    new = nn.Parameter(0.1 * noise((6, 4), 77).to(world.parameters[0]))
    world.parameters.append(new)
    group = {"params": [new]} if type(world.optimizer) is torch.optim.Adam else {"params": [new], "regularize": True}
    world.optimizer.add_param_group(group)


def nan_step(world: World) -> None:
    """Step with gradients that are not finite, then restore weights and moments."""
    optimizers = [world.optimizer, *([world.optimizer.optimizer] if isinstance(world.optimizer, CPR) else [])]
    kept = [(p, p.detach().clone()) for p in world.parameters]
    kept += [
        (value, value.clone())
        for optimizer in optimizers
        for entry in optimizer.state.values()
        for name, value in entry.items()
        if name in ("exp_avg", "exp_avg_sq")
    ]
    for p in world.parameters:
        p.grad = torch.full_like(p, torch.nan)
    world.optimizer.step()
    with torch.no_grad():
        for tensor, value in kept:
            tensor.copy_(value)


def deep_copy(world: World) -> None:
    world.parameters, world.optimizer = copy.deepcopy((world.parameters, world.optimizer))


def through_pickle(world: World) -> None:
    world.parameters, world.optimizer = pickle.loads(pickle.dumps((world.parameters, world.optimizer)))


def swap_data(world: World) -> None:
    for p in world.parameters:
        p.data = p.data.clone()


def swap_layout(world: World) -> None:
    for p in world.parameters:
        p.data = p.data.t().contiguous().t()


def halve_in_place(world: World) -> None:
    with torch.no_grad():
        for p in world.parameters:
            p.mul_(0.5)


def halve_data(world: World) -> None:
    """Halve the weights in a way that does not change their version."""
    for p in world.parameters:
        p.data.mul_(0.5)


def halve_one_row(world: World) -> None:
    with torch.no_grad():
        for p in world.parameters:
            p[1] *= 0.5


LIVES = (
    *(
        load,
        offload_and_reload,
        clear_state,
        change_group,
        freeze_and_unfreeze,
        take_turns,
        add_group,
        nan_step,
        deep_copy,
        through_pickle,
    ),
    *(swap_data, swap_layout, halve_in_place, halve_data, halve_one_row),
)
SHAPES = ((6, 5), (3, 4), (41, 30))
every_life = pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)


def starts(kernel: str) -> list[nn.Parameter]:
    return [nn.Parameter(0.1 * noise(shape, i).to(device(kernel))) for i, shape in enumerate(SHAPES)]


@every_life
@every_kernel
def test_without_a_bound_it_follows_torch_s_adam_through_everything(kernel, life):
    adam = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6}
    worlds = [
        World(lambda groups, k=k: optimizer_of(k, groups, **adam, **NO_BOUND), starts(kernel))
        for k in (kernel, "torch")
    ]
    for world in worlds:
        for t in range(STEPS):
            if t == MOMENT:
                life(world)
            world.step(t)
    ours, theirs = worlds
    for p, q in zip(ours.parameters, theirs.parameters, strict=True):
        assert (p - q).abs().max() <= PRECISION[torch.float32]
        state, inner = ours.optimizer.state[p], theirs.optimizer.state[q]
        assert state["step"] == inner["step"]
        if kernel != "wrapper":
            assert (state["exp_avg"] - inner["exp_avg"]).abs().max() <= 1e-5
    saved = ours.optimizer.state_dict()["state"]
    for i, p in enumerate(ours.parameters):  # the next step uses what was saved
        prefix = "cpr_" if kernel == "wrapper" else ""
        assert all(torch.equal(saved[i][prefix + name], value) for name, value in ours.optimizer.state[p].items())


@dataclass
class Plain:
    """The same steps and events with cpr/reference.py."""

    options: dict[str, Any]
    matrices: list[Reference] = field(default_factory=list)

    def start(self, parameters: list[nn.Parameter]) -> None:
        bound = (self.options["kappa_init_method"], self.options["kappa_init_param"])
        others = {"measure": self.options["reg_function"], "evaluate_at": self.options["evaluate_at"], "eps": 1e-6}
        made = [Reference(p.detach().cpu().double(), bound, lr=1e-2, betas=(0.9, 0.98), **others) for p in parameters]
        self.matrices += made

    def live(self, life: Callable[[World], None], world: World) -> None:
        if life is clear_state:
            self.matrices.clear()
            self.start(world.parameters)
        if life is add_group:
            self.start(world.parameters[len(self.matrices) :])
        for matrix in self.matrices:
            if life is change_group:
                matrix.lr, matrix.betas, matrix.eps = 3e-3, (0.5, 0.9), 1e-3
            if life in (halve_in_place, halve_data):
                matrix.theta = 0.5 * matrix.theta
            if life is halve_one_row:
                matrix.theta = torch.cat([matrix.theta[:1], 0.5 * matrix.theta[1:2], matrix.theta[2:]])
            if life is nan_step:
                kept = matrix.theta, matrix.m, matrix.v
                matrix.step(torch.full_like(matrix.theta, torch.nan))
                matrix.theta, matrix.m, matrix.v = kept


@pytest.mark.parametrize("evaluate_at", ["before", "after"])
@pytest.mark.parametrize("measure", ["l2", "std"])
@every_life
@every_kernel
def test_with_a_bound_it_follows_the_reference_through_everything(kernel, life, measure, evaluate_at):
    if kernel == "triton" and life is halve_data:
        pytest.skip("on a GPU a change through .data is seen one step late, as the docstring says")
    options = {"reg_function": measure, "evaluate_at": evaluate_at, **BOUND}
    adam = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6}
    world, plain = World(lambda groups: optimizer_of(kernel, groups, **adam, **options), starts(kernel)), Plain(options)
    plain.start(world.parameters)
    for t in range(STEPS):
        if t == MOMENT:
            life(world)
            plain.live(life, world)
        world.step(t)
        for i, (p, matrix) in enumerate(zip(world.parameters, plain.matrices, strict=True)):
            if not world.resting(i, t):
                matrix.step(gradient(p, i, t).cpu().double())
    assert any(matrix.lam > 0 for matrix in plain.matrices)
    for p, matrix in zip(world.parameters, plain.matrices, strict=True):
        state = world.optimizer.state[p]
        assert (p.detach().cpu() - matrix.theta).abs().max() <= 1e-5
        assert state["lagmul"].item() == pytest.approx(matrix.lam, rel=1e-3, abs=2e-6)
        assert state["kappa"].item() == pytest.approx(matrix.kappa, rel=1e-4)
