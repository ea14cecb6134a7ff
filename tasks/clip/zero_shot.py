"""Build a head from class names, with rows made by the text tower from sentences about each class."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import open_clip
import torch

from tasks.clip.config import ZeroShot
from tasks.clip.model import Head


def class_names(cfg: ZeroShot) -> list[str]:
    """Return `cfg.classes`: names in the order of the labels, or open_clip's 1,000 names for "imagenet"."""
    if cfg.classes == "imagenet":
        return list(open_clip.IMAGENET_CLASSNAMES)
    return list(cfg.classes)


def templates(cfg: ZeroShot) -> list[Any]:
    """Return `cfg.templates`: sentences with {} for a name.

    "openai" stands for the 80 that OpenAI wrote for ImageNet, as functions of a name.
    """
    if cfg.templates == "openai":
        return list(open_clip.OPENAI_IMAGENET_TEMPLATES)
    return list(cfg.templates)


def head(clip: open_clip.CLIP, names: Sequence[str], templates: Sequence[Any], device: torch.device) -> Head:
    """Return a head of each class's mean normalized text features, normalized, times CLIP's logit scale.

    The bias is 0. The head is on `device`, as is `clip`.
    """
    tokenize = partial(open_clip.tokenize, context_length=clip.context_length)
    weights = open_clip.build_zero_shot_classifier(clip, tokenize, names, templates, device=device)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        made = Head(len(weights), len(names), normalize=True).to(device)
        made.weight.copy_(clip.logit_scale.exp() * weights.T)
        made.bias.zero_()
    return made
