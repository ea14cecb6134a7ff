"""The models whose parameters are stepped. torch is imported when the first one is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Shape:
    """A named model.
    make: builds it.
    in_turn: also time steps that leave out another gradient each time.
    """

    name: str
    title: str
    make: "Callable[[], nn.Module]"
    in_turn: bool = False

    def on_paper(self) -> "nn.Module":
        """Return the model's names and sizes, without memory for its parameters."""
        import torch

        with torch.device("meta"):
            return self.make()

    def built(self, device: "torch.device") -> "nn.Module":
        """Return the model as it starts training, with the same seed each time."""
        import torch

        torch.manual_seed(0)
        with torch.device(device):
            return self.make()


def resnet18() -> "nn.Module":
    from tasks.models.resnet18 import ResNet18

    return ResNet18(100)


def timm_of(name: str, **arguments: object) -> "Callable[[], nn.Module]":
    """Return a function that builds a timm model with 1,000 classes, as the task imagenet does."""

    def make() -> "nn.Module":
        from tasks.imagenet.config import TimmModel
        from tasks.imagenet.model import build

        return build(TimmModel(timm=name, num_classes=1000, arguments=arguments))

    return make


def vitb32() -> "nn.Module":
    """Build CLIP's image tower with a head of 1,000 classes, as the task clip fine-tunes it."""
    from tasks.clip.model import Classifier, Head, build_clip, shape_of

    tower = build_clip(shape_of("ViT-B-32-quickgelu")).visual
    return Classifier(tower, Head(tower.output_dim, 1000, normalize=False))


def gpt2_of(width: int, layers: int, heads: int, **others: int) -> "Callable[[], nn.Module]":
    """Return a function that builds a GPT-2 of the given size, as in the paper."""

    def make() -> "nn.Module":
        from tasks.gpt2 import model as gpt2

        return gpt2.GPT2(gpt2.Shape(width=width, layers=layers, heads=heads, **others))  # type: ignore[arg-type]

    return make


def toy() -> "nn.Module":
    from torch import nn

    return nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(1000))


DEFAULT = (
    Shape("toy", "toy, 1,000 matrices of 32 x 32", toy, in_turn=True),
    Shape("resnet18", "ResNet18", resnet18),
    Shape("deits", "DeiT-S", timm_of("deit_small_patch16_224", drop_path_rate=0.1)),
    Shape("resnet50", "ResNet50", timm_of("resnet50")),
    Shape("vitb32", "ViT-B/32", vitb32),
    Shape("gpt2s", "GPT2s", gpt2_of(768, 12, 12)),
    Shape("gpt2m", "GPT2m", gpt2_of(1024, 24, 16)),
    Shape("gpt2l", "GPT2l", gpt2_of(1280, 36, 20)),
    Shape("gpt2xl", "GPT2xl", gpt2_of(1600, 36, 25)),
)
# Fast to measure, to try the command itself.
TINY = Shape("tiny", "tiny GPT-2", gpt2_of(64, 2, 2, vocabulary=500), in_turn=True)
SHAPES = {shape.name: shape for shape in (*DEFAULT, TINY)}
