"""What is stepped: the parameters of a model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from tasks.gpt2 import model as gpt2


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
        """The model as it starts training, by the same seed each time."""
        torch.manual_seed(0)
        with torch.device(device):
            return self.make()


def resnet18() -> nn.Module:
    from tasks.cifar100.model import ResNet18

    return ResNet18(100)


def gpt2_of(width: int, layers: int, heads: int, **others: int) -> Callable[[], nn.Module]:
    """A GPT-2 of the paper's kind by its size."""
    return lambda: gpt2.GPT2(gpt2.Shape(width, layers, heads, **others))  # type: ignore[arg-type]


def toy() -> nn.Module:
    return nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(1000))


DEFAULT = (
    Shape("toy", "toy, 1,000 matrices of 32 x 32", toy),
    Shape("resnet18", "ResNet18", resnet18),
    Shape("gpt2s", "GPT2s", gpt2_of(768, 12, 12)),
    Shape("gpt2m", "GPT2m", gpt2_of(1024, 24, 16)),
    Shape("gpt2l", "GPT2l", gpt2_of(1280, 36, 20)),
    Shape("gpt2xl", "GPT2xl", gpt2_of(1600, 36, 25)),
)
# Made in a moment, for a look at the command itself.
TINY = Shape("tiny", "tiny GPT-2", gpt2_of(64, 2, 2, vocabulary=500))
SHAPES = {shape.name: shape for shape in (*DEFAULT, TINY)}
