"""Time steps of several methods in interleaved rounds over shared memory.
All methods step the same parameters, gradients and moments. So models fit that fill most of the
memory, and every method finds the caches as the previous one left them. The first method of a round
finds them as the bandwidth's kernels left them, and each round starts with another method.

Each method has its own parameter objects over that memory. torch counts changes per object, so
AdamCPR would otherwise see the changes of the other methods and sum its matrices again.
"""

import contextlib
import copy
import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import CPR, AdamCPR, regularized_groups, snapshot
from scripts.bench.bandwidth import bandwidth, timed
from scripts.bench.memory import extra_peak_bytes
from scripts.bench.methods import MULTIPLIER, Method
from tasks.gpt2.model import GPT2

WARM_UP = 3
CLIP = 1.0  # the paper's gradient clipping


@dataclass
class Timing:
    """Measurements of one method."""

    seconds: list[float] = field(default_factory=list)
    extra_peak_bytes: int | None = None


def twin(model: nn.Module) -> nn.Module:
    """Return the model with its own parameter objects over the same memory."""
    return copy.deepcopy(model, {id(p): nn.Parameter(p.data) for p in model.parameters()})


def share_moments(optimizer: Optimizer, model: nn.Module, moments: list[tuple[Tensor, Tensor]]) -> None:
    """Give an Adam without state the shared moments, at step 0."""
    inner = getattr(optimizer, "optimizer", optimizer)
    on_device = {id(p): bool(group.get("fused")) for group in inner.param_groups for p in group["params"]}
    for parameter, (mean, square) in zip(model.parameters(), moments, strict=True):
        step = torch.zeros((), device=parameter.device if on_device[id(parameter)] else "cpu")
        inner.state[parameter] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}


def replace_moments(optimizer: Optimizer, model: nn.Module, moments: list[tuple[Tensor, Tensor]]) -> None:
    """Replace the moments of an optimizer that has made its own by the shared ones."""
    for parameter, (mean, square) in zip(model.parameters(), moments, strict=True):
        optimizer.state[parameter] |= {"exp_avg": mean, "exp_avg_sq": square}


def make_pull(optimizer: Optimizer) -> None:
    """Set λ of every matrix to MULTIPLIER."""
    for state in optimizer.state.values():
        if "lagmul" in state:
            state["lagmul"].fill_(MULTIPLIER)


def require_pull(label: str, optimizer: Optimizer) -> None:
    """Check that a CPR optimizer has pulled every matrix at every step since `make_pull`.

    Raises:
        RuntimeError: a bound is not set, or its λ has fallen. Steps without a pull are shorter than CPR's.
    """
    if not isinstance(optimizer, AdamCPR | CPR):
        return
    bounds = snapshot(optimizer)
    resting = [name for name, bound in bounds.items() if not (bound.is_set and bound.lam >= MULTIPLIER)]
    if resting:
        raise RuntimeError(
            f"{label}: {len(resting)} of {len(bounds)} matrices were not pulled at every step, such as {resting[0]} "
            f"with {bounds[resting[0]]}; lambda must stay >= {MULTIPLIER:g}, see BOUND in scripts/bench/methods.py"
        )


def step_in_turn(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """Return a step that leaves out the gradient of another parameter each time."""
    left_out = itertools.cycle(model.parameters())

    def step() -> None:
        parameter = next(left_out)
        gradient, parameter.grad = parameter.grad, None
        optimizer.step()
        parameter.grad = gradient

    return step


Steps = Iterator[tuple[str, Callable[[], Any], Optimizer]]  # label, step and its optimizer


class Bench:
    """Hold a shape in memory and time methods on it.
    `optimizer_step` and `training_step` call `tick` after every call of a step.

    Attributes:
        bandwidth: memory bandwidth in every round of the latest part, in bytes per second of each
            kernel of scripts.bench.bandwidth.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.bandwidth: list[dict[str, float]] = []
        self.tick: Callable[[], object] = lambda: None
        self.moments = [(torch.zeros_like(p.data), torch.zeros_like(p.data)) for p in model.parameters()]

    def optimizer_step(self, methods: list[Method], rounds: int) -> dict[str, Timing]:
        """Time the step alone, with constant gradients. Methods may take them in turn."""
        gradients = [torch.empty_like(p.data).uniform_(-0.01, 0.01) for p in self.model.parameters()]

        def make(method: Method, model: nn.Module, optimizer: Optimizer) -> Callable[[], Any]:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            if not method.in_turn:
                return optimizer.step
            optimizer.step()  # all parameters get their state
            return step_in_turn(model, optimizer)

        return self._rounds(self._steps(methods, make), rounds, settle=True)

    def training_step(
        self, methods: list[Method], rounds: int, batch: int, context: int, bf16: bool
    ) -> dict[str, Timing]:
        """Time forward, backward, clipping and step on random tokens [batch, context + 1].
        Gradients exist only within a step.
        """
        return self._rounds(self._training_steps(methods, batch, context, bf16), rounds)

    def largest_batch(self, method: Method, context: int, bf16: bool, available: int) -> int:
        """Return the largest batch that a training step can take in `available` bytes, at least 1.
        Extrapolates from the peaks with batches of 1 and 2.
        """
        peaks = []
        for batch in (1, 2):
            ((_, step, _),) = self._training_steps([method], batch, context, bf16)
            peaks.append(extra_peak_bytes(step, self.device) or 0)
        each = max(1, peaks[1] - peaks[0])
        return max(1, 1 + (available - peaks[0]) // each)

    def _training_steps(self, methods: list[Method], batch: int, context: int, bf16: bool) -> Steps:
        generator = torch.Generator().manual_seed(0)
        assert isinstance(self.model, GPT2)
        tokens = torch.randint(self.model.shape.vocabulary, (batch, context + 1), generator=generator).to(self.device)

        def make(method: Method, model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
            def step() -> None:
                torch.manual_seed(0)  # the same dropout for every method
                with torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
                    loss = model(tokens[:, :-1], tokens[:, 1:])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            return step

        return self._steps(methods, make)

    def _steps(self, methods: list[Method], make: Callable[[Method, nn.Module, Optimizer], Callable[[], Any]]) -> Steps:
        for method in methods:
            model = twin(self.model)
            optimizer = method.make(regularized_groups(model))
            if method.moments == "shared":
                share_moments(optimizer, model, self.moments)
            step = make(method, model, optimizer)
            step()  # creates the optimizer's state
            if method.moments == "own":
                replace_moments(optimizer, model, self.moments)
            make_pull(optimizer)
            yield method.label, step, optimizer

    def _rounds(self, made: Steps, rounds: int, settle: bool = False) -> dict[str, Timing]:
        """Run the warm-up, one round for memory, then the timed rounds.
        Each timed round starts with another method and ends with the bandwidth.

        settle: take an untimed step before each timed one. Methods share the parameters, so AdamCPR
        finds that another method has changed them and sums them again, which it does not do in
        training.
        """
        gc.collect()  # frees the gradients of an earlier part if a cycle holds them
        steps: dict[str, Callable[[], Any]] = {}
        optimizers: dict[str, Optimizer] = {}
        for label, step, optimizer in made:
            steps[label], optimizers[label] = step, optimizer
        found = {label: Timing() for label in steps}
        self.bandwidth = []
        # A garbage collection within a step then skips all older objects, which would take half a second.
        gc.freeze()
        order = list(steps)
        for number in range(WARM_UP + 1 + rounds):
            first = number % len(order)
            for label in order[first:] + order[:first]:
                if number < WARM_UP:
                    steps[label]()
                elif number == WARM_UP:
                    found[label].extra_peak_bytes = extra_peak_bytes(steps[label], self.device)
                else:
                    if settle:
                        steps[label]()
                    found[label].seconds.append(timed(steps[label], self.device))
                self.tick()
            if number > WARM_UP:
                self.bandwidth.append(bandwidth(self.device))
        gc.unfreeze()
        for label, optimizer in optimizers.items():
            require_pull(label, optimizer)
        return found
