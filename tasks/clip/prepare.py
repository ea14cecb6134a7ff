"""Brings images and the model that is fine-tuned: ImageNet and OpenAI's weights, or Fashion-MNIST and a small CLIP of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tasks.clip import pretrained, small
from tasks.imagenet import prepare as images

DATA_SETS = images.DATA_SETS
MINI = Path(__file__).parents[2] / "configs" / "scale" / "mini" / "clip.yaml"


def prepare(name: str, root: Path, say: Callable[[str], None]) -> None:
    """Puts the data set `name` of DATA_SETS and its model into `root`; does nothing if they are there.

    Raises UserError if no source can be reached, or the user has to download something.
    """
    if name == "FashionMNIST":
        images.prepare(name, root, say)
        cfg: Any = OmegaConf.load(MINI)
        small.trained(root, small.recipe_of(cfg.task.small), say)
        return
    pretrained.fetch(root, say)  # first: ImageNet may have to be downloaded by hand
    images.prepare(name, root, say)
