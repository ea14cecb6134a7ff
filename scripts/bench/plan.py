"""What fits: which methods are timed on a shape, and how much work that is."""

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
    """Methods of one part of a shape; label -> why it is skipped. batch 0: the optimizer step alone."""

    batch: int
    methods: list[Method] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def cost(self, parameters: int, options: Options) -> int:
        """Of one call, roughly, for the progress bar: that of one optimizer step per parameter is 100."""
        return parameters * (100 + self.batch * options.context)

    def calls(self, options: Options) -> int:
        """How often methods are called in the rounds."""
        return len(self.methods) * (WARM_UP + 1 + options.rounds)


def activation_bytes(shape: gpt2.Shape, batch: int, context: int) -> int:
    """About what forward keeps for backward, in float32 and with attention weights held (on a GPU it is less)."""
    per_token = shape.layers * (28 * shape.width + 4 * shape.heads * context) + 3 * shape.vocabulary
    return 4 * batch * context * per_token


def shared_bytes(model: nn.Module, batch: int, context: int) -> int:
    """Parameters, gradients and two moments in float32, which all methods share; with a batch, what forward and backward add."""
    sizes = [4 * p.numel() for p in model.parameters()]
    if batch == 0:
        return 4 * sum(sizes)
    assert isinstance(model, gpt2.GPT2)
    # The tied embedding has two gradients, of which the sum is taken.
    return 4 * sum(sizes) + 2 * max(sizes) + activation_bytes(model.shape, batch, context)


def plan(shape: Shape, batch: int, options: Options, in_turn: bool = False) -> Plan:
    """The methods that fit beside what all share; none where the reference does not. in_turn: see `methods_in_turn`."""
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
