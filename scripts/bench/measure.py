"""Interleaved rounds of steps over shared memory.

All methods step the same parameters, gradients and moments, so that models fit that fill most of the memory, and every method finds
the caches as the one before has left them (the first of a round, which is another one each time, as the bandwidth's kernels have).
Each has parameter objects of its own over that memory: torch counts changes per object, and AdamCPR would otherwise see those of the
other methods and sum its matrices anew.
"""

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr import regularized_groups
from scripts.bench.bandwidth import bandwidth, timed
from scripts.bench.memory import extra_peak_bytes
from scripts.bench.methods import Method
from tasks.gpt2.model import GPT2

WARM_UP = 3
CLIP = 1.0  # the paper's gradient clipping


@dataclass
class Timing:
    """What was measured of a method."""

    seconds: list[float] = field(default_factory=list)
    extra_peak_bytes: int | None = None


def twin(model: nn.Module) -> nn.Module:
    """The model with parameters of its own over the same memory."""
    return copy.deepcopy(model, {id(p): nn.Parameter(p.data) for p in model.parameters()})


def share_moments(optimizer: Optimizer, model: nn.Module, moments: list[tuple[Tensor, Tensor]]) -> None:
    """Gives an Adam without state the moments, at step 0."""
    inner = getattr(optimizer, "optimizer", optimizer)
    on_device = {id(p): bool(group.get("fused")) for group in inner.param_groups for p in group["params"]}
    for parameter, (mean, square) in zip(model.parameters(), moments, strict=True):
        step = torch.zeros((), device=parameter.device if on_device[id(parameter)] else "cpu")
        inner.state[parameter] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}


def replace_moments(optimizer: Optimizer, model: nn.Module, moments: list[tuple[Tensor, Tensor]]) -> None:
    """Gives an optimizer that has made moments of its own the shared ones instead."""
    for parameter, (mean, square) in zip(model.parameters(), moments, strict=True):
        optimizer.state[parameter] |= {"exp_avg": mean, "exp_avg_sq": square}


class Bench:
    """A shape in memory; `optimizer_step` and `training_step` time methods on it, and call `tick` after every call of a step.

    bandwidth: that of the memory in every round of the latest part, bytes per second of each kernel of scripts.bench.bandwidth.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.bandwidth: list[dict[str, float]] = []
        self.tick: Callable[[], object] = lambda: None
        self.moments = [(torch.zeros_like(p.data), torch.zeros_like(p.data)) for p in model.parameters()]

    def optimizer_step(self, methods: list[Method], rounds: int) -> dict[str, Timing]:
        """The step alone, with constant gradients."""
        gradients = [torch.empty_like(p.data).uniform_(-0.01, 0.01) for p in self.model.parameters()]

        def make(model: nn.Module, optimizer: Optimizer) -> Callable[[], Any]:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            return optimizer.step

        return self._rounds(self._steps(methods, make), rounds)

    def training_step(self, methods: list[Method], rounds: int, batch: int, context: int, bf16: bool) -> dict[str, Timing]:
        """Forward, backward, clipping and step on random tokens [batch, context + 1]; gradients are held within a step only."""
        return self._rounds(self._training_steps(methods, batch, context, bf16), rounds)

    def largest_batch(self, method: Method, context: int, bf16: bool, available: int) -> int:
        """The largest batch whose training step takes no more than so many bytes, from the peaks at 1 and 2; at least 1."""
        peaks = []
        for batch in (1, 2):
            ((_, step),) = self._training_steps([method], batch, context, bf16)
            peaks.append(extra_peak_bytes(step, self.device) or 0)
        each = max(1, peaks[1] - peaks[0])
        return max(1, 1 + (available - peaks[0]) // each)

    def _training_steps(self, methods: list[Method], batch: int, context: int, bf16: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
        generator = torch.Generator().manual_seed(0)
        assert isinstance(self.model, GPT2)
        tokens = torch.randint(self.model.shape.vocabulary, (batch, context + 1), generator=generator).to(self.device)

        def make(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
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

    def _steps(
        self, methods: list[Method], make: Callable[[nn.Module, Optimizer], Callable[[], Any]]
    ) -> Iterator[tuple[str, Callable[[], Any]]]:
        for method in methods:
            model = twin(self.model)
            optimizer = method.make(regularized_groups(model))
            if method.moments == "shared":
                share_moments(optimizer, model, self.moments)
            step = make(model, optimizer)
            step()  # makes what state there is to make
            if method.moments == "own":
                replace_moments(optimizer, model, self.moments)
            yield method.label, step

    def _rounds(self, made: Iterator[tuple[str, Callable[[], Any]]], rounds: int) -> dict[str, Timing]:
        """Warm-up, one round for memory, then timed rounds, each starting with another method and ending with the bandwidth."""
        gc.collect()  # the gradients of an earlier part, where a cycle holds them
        steps = dict(made)
        found = {label: Timing() for label in steps}
        self.bandwidth = []
        gc.freeze()  # a garbage collection within a step need not look at all that was there before, which takes half a second
        order = list(steps)
        for number in range(WARM_UP + 1 + rounds):
            first = number % len(order)
            for label in order[first:] + order[:first]:
                if number < WARM_UP:
                    steps[label]()
                elif number == WARM_UP:
                    found[label].extra_peak_bytes = extra_peak_bytes(steps[label], self.device)
                else:
                    found[label].seconds.append(timed(steps[label], self.device))
                self.tick()
            if number > WARM_UP:
                self.bandwidth.append(bandwidth(self.device))
        gc.unfreeze()
        return found
