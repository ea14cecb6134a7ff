"""Plan what fits in memory: the methods to time on a shape, and how much work they are."""

from dataclasses import dataclass, field

from torch import nn

from scripts.bench.measure import WARM_UP
from scripts.bench.memory import free_bytes, gigabytes
from scripts.bench.methods import REFERENCE, Method, methods, methods_in_turn
from scripts.bench.options import Options
from scripts.bench.shapes import Shape
from tasks.gpt2 import model as gpt2


@dataclass
class Plan:
    """The methods of one part of a shape.
    batch: sequences of a training step. 0 is the optimizer step alone.
    skipped: the reason by label of each method that is left out.
    """

    batch: int
    methods: list[Method] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def cost(self, parameters: int, options: Options) -> int:
        """Return the rough cost of one call for the progress bar, where an optimizer step costs 100 per parameter."""
        return parameters * (100 + self.batch * options.context)

    def calls(self, options: Options) -> int:
        """Return how often methods are called in all rounds."""
        return len(self.methods) * (WARM_UP + 1 + options.rounds)


def activation_bytes(shape: gpt2.Shape, batch: int, context: int) -> int:
    """Return roughly what forward keeps for backward, in float32 and with attention weights.
    A GPU keeps less.
    """
    per_token = shape.layers * (28 * shape.width + 4 * shape.heads * context) + 3 * shape.vocabulary
    return 4 * batch * context * per_token


def shared_bytes(model: nn.Module, batch: int, context: int) -> int:
    """Return the bytes that all methods share: parameters, gradients and two moments in float32.
    With a batch, this includes what forward and backward add.
    """
    sizes = [4 * p.numel() for p in model.parameters()]
    if batch == 0:
        return 4 * sum(sizes)
    assert isinstance(model, gpt2.GPT2)
    # The tied embedding has two gradients, which are added up.
    return 4 * sum(sizes) + 2 * max(sizes) + activation_bytes(model.shape, batch, context)


def plan(shape: Shape, batch: int, options: Options, in_turn: bool = False) -> Plan:
    """Return the methods that fit beside what all share, or none if the reference does not fit.
    in_turn: see `methods_in_turn`.
    """
    model = shape.on_paper()
    available = min(free_bytes(options.device), options.memory)
    found = Plan(batch)
    shared = shared_bytes(model, batch, options.context)
    if shared > available:
        reason = f"needs {gigabytes(shared)}, {gigabytes(available)} may be used"
        found.skipped = {"every method": reason}
        return found
    for method in (methods_in_turn if in_turn else methods)(options.device):
        needed = shared + method.extra_bytes(model)
        if needed > available and method.label != REFERENCE:
            found.skipped[method.label] = f"needs {gigabytes(needed)}, {gigabytes(available)} may be used"
        else:
            found.methods.append(method)
    return found
