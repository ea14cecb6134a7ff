"""CPR works around optimizers of torch, timm and bitsandbytes. Each passes the same tests."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cpr import CPR, regularized_groups
from cpr.reference import Reference

torch.set_num_threads(1)

SIZE = 64  # bitsandbytes keeps the moments of fewer than 4,096 elements in float32
STEPS = 500
KI0 = {"kappa_init_method": "dependent", "kappa_init_param": 1.0}
WS = {"kappa_init_method": "warm_start", "kappa_init_param": 20}
OUT_OF_REACH = {"kappa_init_method": "uniform", "kappa_init_param": 1e6}
Build = Callable[[list[dict[str, Any]]], Optimizer]


def adam8bit(groups: list[dict[str, Any]]) -> Optimizer:
    package = pytest.importorskip("bitsandbytes", reason="bitsandbytes, which no lock file has, is not installed")
    return package.optim.Adam8bit(groups, lr=2e-3)


# With these rates and the gradients of `outward`, each updates an element by about 0.001 to 0.003 a step.
OPTIMIZERS: dict[str, Build] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0),
    "SGD, momentum": lambda groups: torch.optim.SGD(groups, lr=1e-4, momentum=0.9),
    "SGD, Nesterov": lambda groups: torch.optim.SGD(groups, lr=1e-4, momentum=0.9, nesterov=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=2e-3),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=2e-3, weight_decay=0, fused=True),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=2e-3),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=3e-2),
    "Muon": lambda groups: torch.optim.Muon(groups, lr=2e-2, weight_decay=0),
    "Lion": lambda groups: timm.optim.Lion(groups, lr=1e-3),
    "Adam, 8 bits": adam8bit,
}
each = pytest.mark.parametrize("name", OPTIMIZERS)


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if "8 bits" in name else torch.float64


def start(name: str) -> Tensor:
    return 0.1 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=dtype_of(name))


def outward(name: str, steps: int = STEPS) -> list[Tensor]:
    """Return gradients that make the matrix grow unless a bound holds it."""
    generator = torch.Generator().manual_seed(1)
    away = start(name).sign()
    return [torch.randn(SIZE, SIZE, generator=generator, dtype=dtype_of(name)) - away for _ in range(steps)]


def bounded(name: str, theta: nn.Parameter, **options: Any) -> CPR:
    return CPR(OPTIMIZERS[name]([{"params": [theta], "regularize": True}]), **options)


def feed(optimizer: Optimizer, theta: nn.Parameter, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        theta.grad = gradient.clone()
        optimizer.step()


@dataclass
class Around(Reference):
    """The reference's Algorithm 1 with any optimizer as Opt. The update is the optimizer's step from zero."""

    build: Build = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.update = nn.Parameter(torch.zeros_like(self.theta))
        self.base = self.build([{"params": [self.update]}])

    def opt(self, g: Tensor) -> Tensor:
        self.update.detach().zero_()
        feed(self.base, self.update, [g])
        return self.update.detach().clone()


@pytest.mark.parametrize("evaluate_at", ["before", "after"])
@each
def test_every_step_is_algorithm_1_and_the_matrix_is_held_at_its_bound(name, evaluate_at):
    theta = nn.Parameter(start(name))
    optimizer = bounded(name, theta, evaluate_at=evaluate_at, **KI0)
    reference = Around(start(name), ("dependent", 1.0), evaluate_at=evaluate_at, build=OPTIMIZERS[name])
    tolerance = 1e-12 if dtype_of(name) == torch.float64 else 1e-5
    for gradient in outward(name):
        feed(optimizer, theta, [gradient])
        reference.step(gradient)
        assert (theta.detach() - reference.theta).abs().max() <= tolerance * reference.theta.abs().max()
    value, kappa, multiplier = reference.history[-1]
    assert optimizer.state[theta]["lagmul"].item() == pytest.approx(multiplier, rel=100 * tolerance)
    assert multiplier > 1e-3
    assert value == pytest.approx(kappa, rel=0.03)


@each
def test_without_a_bound_the_matrix_grows_far_beyond_it(name):
    theta = nn.Parameter(start(name))
    feed(OPTIMIZERS[name]([{"params": [theta]}]), theta, outward(name))
    assert theta.square().mean() >= 10 * start(name).square().mean()


def trained(name: str, around: Callable[[Optimizer], Optimizer]) -> list[Tensor]:
    """Return a network's parameters after 40 steps with a falling lr. With Muon, vectors have another optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE)).to(dtype_of(name))
    matrices, vectors = regularized_groups(model)
    optimizers = [around(OPTIMIZERS[name]([matrices] if name == "Muon" else [matrices, vectors]))]
    if name == "Muon":
        optimizers.append(torch.optim.SGD(vectors["params"], lr=0.1))
    schedulers = [LambdaLR(optimizer, lambda step: 0.95**step) for optimizer in optimizers]
    inputs = torch.randn(16, SIZE, dtype=dtype_of(name))
    for _ in range(40):
        model.zero_grad()
        (model(inputs) - inputs).square().mean().backward()
        for one in (*optimizers, *schedulers):
            one.step()
    return [p.detach() for p in model.parameters()]


@each
def test_an_unreached_bound_and_a_scheduler_train_a_network_as_without_cpr_to_the_bit(name):
    alone = trained(name, around=lambda base: base)
    wrapped = trained(name, around=lambda base: CPR(base, **OUT_OF_REACH))
    assert all(map(torch.equal, wrapped, alone))


@each
def test_a_gradient_scaler_changes_no_bit_and_its_skipped_step_changes_nothing(name):
    scaled, plain = nn.Parameter(start(name)), nn.Parameter(start(name))
    with_scaler, without = bounded(name, scaled, **WS), bounded(name, plain, **WS)
    scaler = torch.amp.GradScaler("cpu")  # its scale is a power of two
    for step, gradient in enumerate(outward(name, 60)):
        for weight in (float("inf"), 1.0) if step % 25 == 10 else (1.0,):
            with_scaler.zero_grad()
            scaler.scale((scaled * gradient).sum() * weight).backward()
            scaler.step(with_scaler)
            scaler.update()
        feed(without, plain, [gradient])
    assert torch.equal(scaled, plain)
    assert with_scaler.state[scaled]["lagmul"] > 0
    assert with_scaler.state[scaled] == without.state[plain]


@pytest.fixture(scope="module")
def another_process() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


def go_on(name: str, path: Path) -> None:
    """Load the state at `path`, take the last 40 of 80 steps and save the end there."""
    saved = torch.load(path, weights_only=True)
    theta = nn.Parameter(saved["theta"])
    optimizer = bounded(name, theta, **WS)
    optimizer.load_state_dict(saved["state"])
    feed(optimizer, theta, outward(name, 80)[40:])
    torch.save({"theta": theta.detach(), "state": optimizer.state_dict()}, path)


@each
def test_another_process_resumes_from_the_state_to_the_bit(name, tmp_path, another_process):
    theta, path = nn.Parameter(start(name)), tmp_path / "saved.pt"
    optimizer = bounded(name, theta, **WS)
    feed(optimizer, theta, outward(name, 40))
    torch.save({"theta": theta.detach(), "state": optimizer.state_dict()}, path)
    feed(optimizer, theta, outward(name, 80)[40:])
    another_process.submit(go_on, name, path).result()
    end = torch.load(path, weights_only=True)
    assert torch.equal(end["theta"], theta)
    assert optimizer.state[theta]["lagmul"] > 0
    own = {key.removeprefix("cpr_"): value for key, value in end["state"]["state"][0].items() if key.startswith("cpr_")}
    assert own == optimizer.state[theta]


@pytest.mark.parametrize("regularize", [True, False])
@pytest.mark.parametrize("decaying", [torch.optim.AdamW, torch.optim.Muon])
def test_an_optimizer_that_decays_by_default_is_refused_with_its_value(decaying, regularize):
    base = decaying([{"params": [nn.Parameter(start("SGD"))], "regularize": regularize}])
    with pytest.raises(ValueError, match=rf"weight_decay={base.defaults['weight_decay']} .*set it to 0"):
        CPR(base, **WS)
