"""open_clip's models by name or shape, and the fine-tuned classifier: an image tower and a linear head."""

from collections.abc import Mapping
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.engine.errors import UserError


class Head(nn.Linear):
    """Linear layer from features [batch, width] to logits [batch, classes].

    With `normalize`, features are first scaled to length 1, as CLIP compares them.
    """

    def __init__(self, width: int, classes: int, normalize: bool) -> None:
        super().__init__(width, classes)
        self.normalize = normalize

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(F.normalize(features, dim=-1) if self.normalize else features)


class Classifier(nn.Module):
    """Map images [batch, 3, size, size] to logits [batch, classes]."""

    def __init__(self, tower: nn.Module, head: Head) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tower(images))


def shape_of(architecture: str) -> dict[str, Any]:
    """Return the arguments of open_clip.CLIP for open_clip's model `architecture`.

    Raises:
        UserError: there is no such model, or its towers are not open_clip's own transformers.
    """
    if architecture not in open_clip.list_models():
        raise UserError(
            f"task.architecture={architecture!r} is unknown to open_clip {open_clip.__version__}; one it has is ViT-B-32-quickgelu"
        )
    shape = open_clip.get_model_config(architecture)
    vision, text = shape["vision_cfg"], shape["text_cfg"]
    # WiSE-FT can't interpolate a ResNet's batch statistics. The other kinds need another class,
    # tokenizer or library.
    own = isinstance(vision.get("layers"), int) and not {"hf_model_name", "hf_tokenizer_name"} & set(text)
    if not own or shape.get("custom_text") or "multimodal_cfg" in shape:
        raise UserError(
            f"task.architecture={architecture}: its towers are not open_clip's own transformers; choose one such as ViT-B-32"
        )
    return shape


def build_clip(shape: Mapping[str, Any]) -> open_clip.CLIP:
    """Return a newly initialized model, leaving torch's global generators unchanged.

    Raises:
        TypeError or ValueError: the shape can't be built.
    """
    with torch.random.fork_rng(devices=[]):
        return open_clip.CLIP(**shape)
