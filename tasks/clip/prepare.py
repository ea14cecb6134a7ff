"""Get images and the model to fine-tune.

These are ImageNet and OpenAI's weights, or Fashion-MNIST and a small CLIP trained for it.
"""

from collections.abc import Callable
from pathlib import Path

from tasks.clip import pretrained, small
from tasks.clip.config import SmallClip
from tasks.data.images import prepare as images
from tasks.engine.section import read_part

DATA_SETS = images.DATA_SETS
MINI = Path(__file__).parents[2] / "configs" / "scale" / "mini" / "clip.yaml"


def prepare(name: str, root: Path, say: Callable[[str], None]) -> None:
    """Put the data set `name` of DATA_SETS and its model into `root`. Do nothing if they are there.

    Raises:
        UserError: no source can be reached, or the user has to download something.
    """
    if name == "FashionMNIST":
        images.prepare(name, root, say)
        small.trained(root, read_part(SmallClip, MINI, "task.small"))
        return
    # The weights come first, since ImageNet may have to be downloaded by hand.
    pretrained.fetch(root, say)
    images.prepare(name, root, say)
