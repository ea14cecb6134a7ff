"""What is stepped: the parameters of a model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from scripts.bench.gpt2 import GPT2, Size


@dataclass(frozen=True)
class Shape:
    """A model by name; `make` builds it."""

    name: str
    title: str
    make: Callable[[], nn.Module]

    def on_paper(self) -> nn.Module:
        """The model without memory for its parameters: names and sizes."""
        with torch.device("meta"):
            return self.make()

    def built(self, device: torch.device) -> nn.Module:
        """The model with memory: matrices N(0, 0.02), biases 0, norm weights 1."""
        torch.manual_seed(0)
        model = self.on_paper().to_empty(device=device)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.02)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return model


def resnet18() -> nn.Module:
    from tasks.cifar100.model import ResNet18

    return ResNet18(100)


def toy() -> nn.Module:
    return nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(1000))


DEFAULT = (
    Shape("toy", "toy, 1,000 matrices of 32 x 32", toy),
    Shape("resnet18", "ResNet18", resnet18),
    Shape("gpt2s", "GPT2s", lambda: GPT2(Size(768, 12, 12))),
    Shape("gpt2m", "GPT2m", lambda: GPT2(Size(1024, 24, 16))),
    Shape("gpt2l", "GPT2l", lambda: GPT2(Size(1280, 36, 20))),
    Shape("gpt2xl", "GPT2xl", lambda: GPT2(Size(1600, 36, 25))),
)
# Made in a moment, for a look at the command itself.
TINY = Shape("tiny", "tiny GPT-2", lambda: GPT2(Size(64, 2, 2, 500)))
SHAPES = {shape.name: shape for shape in (*DEFAULT, TINY)}
