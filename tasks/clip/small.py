"""The small CLIP that stands for OpenAI's at mini scale: open_clip's model and loss, images and captions, kept in the data folder."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from cpr import regularized_groups
from tasks.clip.model import build_clip
from tasks.engine.batching import epoch_order
from tasks.engine.errors import UserError
from tasks.engine.kept import Weights, kept, one_thread
from tasks.engine.schedule import lr_factor
from tasks.engine.seeding import derive, generator_for
from tasks.imagenet.data import read

DATA = "FashionMNIST"
LARGEST_SCALE = math.log(100)  # of the logits, as in CLIP


@dataclass(frozen=True)
class Recipe:
    """What decides, with the images, the weights. configs/scale/mini/clip.yaml says what each value is."""

    images: int
    subset_seed: int
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str]
    templates: Sequence[str]
    unnamed: Sequence[str]
    shape: dict[str, Any]
    batch_size: int
    steps: int
    lr: float
    weight_decay: float
    warmup_steps: int
    seed: int


def recipe_of(cfg: Any) -> Recipe:
    """Of a resolved configuration's `task.small`. Raises UserError for a key too many or too few."""
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    try:
        return Recipe(**content)
    except TypeError as error:
        raise UserError(f"task.small: {error}") from error


def trained(root: Path, recipe: Recipe, say: Callable[[str], None], quiet: bool = False) -> open_clip.CLIP:
    """The model of the recipe, on the CPU: kept by an earlier call, or trained now and kept.

    Of several processes one trains, and the others wait for it. Raises UserError if the images are not there, the recipe cannot be
    followed, or the disk is full.
    """
    try:
        model = build_clip(recipe.shape)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise UserError(f"task.small.shape: open_clip cannot make a CLIP of it ({error})") from error
    path = kept_at(root, recipe)

    def train() -> Weights:
        if not quiet:
            say(f"training the small CLIP that is fine-tuned: {recipe.steps} steps on {DATA}, once; kept as {path}")
        return _train(root, recipe, quiet)

    model.load_state_dict(kept(path, asdict(recipe), train))
    return model


def kept_at(root: Path, recipe: Recipe) -> Path:
    """The file's name is the hash of the recipe and of all the training images that there are."""
    content = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for tensor in everything(root):
        content.update(tensor.numpy().tobytes())
    return root / "clip" / "small" / f"{content.hexdigest()[:16]}.pt"


def pairs(root: Path, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Images, uint8 [n, height, width], and their classes, int64 [n], without those of classes that no caption names.

    They are of the training images, of which `images` are taken: the last ones in the order in which tasks/imagenet/data.py draws the
    subset for fine-tuning, which takes the first ones. Raises UserError if there are fewer, or too few for a batch.
    """
    images, classes = everything(root)
    if not 1 <= recipe.images <= len(images):
        raise UserError(f"task.small.images={recipe.images} must lie in 1..{len(images)}")
    if unknown := set(recipe.unnamed) - set(recipe.classes):
        raise UserError(f"task.small.unnamed: {min(unknown)!r} is none of task.small.classes")
    chosen = subset(len(images), recipe)
    named = torch.tensor([name not in recipe.unnamed for name in recipe.classes])
    chosen = chosen[named[classes[chosen]]]
    if len(chosen) < recipe.batch_size:
        raise UserError(
            f"task.small: {len(chosen)} images have a caption, fewer than task.small.batch_size={recipe.batch_size}"
        )
    return images[chosen], classes[chosen]


def subset(count: int, recipe: Recipe) -> Tensor:
    """Which of `count` training images are for this, also those without a caption."""
    return torch.randperm(count, generator=generator_for(recipe.subset_seed, "subset", "train"))[
        count - recipe.images :
    ]


def everything(root: Path) -> tuple[Tensor, Tensor]:
    """Every training image of Fashion-MNIST, uint8 [n, 28, 28], and every class, int64 [n]."""
    found: Any = read(DATA, root, "train")
    return found.data, found.targets


def _train(root: Path, recipe: Recipe, quiet: bool) -> Weights:
    """Contrastively, by AdamW on the CPU and one thread: the same bits in every process of a machine."""
    images, classes = pairs(root, recipe)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    sentences = [template.format(name) for name in recipe.classes for template in recipe.templates]
    captions = open_clip.tokenize(sentences, recipe.shape["text_cfg"]["context_length"])
    indices = epoch_order(len(images), recipe.batch_size, recipe.seed, drop_last=True)
    schedule: Any = OmegaConf.create({"warmup_steps": recipe.warmup_steps, "decay": "cosine", "final_factor": 0.0})
    contrast = open_clip.ClipLoss()
    with one_thread():
        with torch.random.fork_rng(
            devices=[]
        ):  # a run's own random numbers do not depend on whether it had to train this
            torch.manual_seed(derive(recipe.seed, "small"))
            model = open_clip.CLIP(**recipe.shape).train()
        decays = [
            group | {"weight_decay": recipe.weight_decay if group["regularize"] else 0.0}
            for group in regularized_groups(model)
        ]
        optimizer = torch.optim.AdamW(decays, betas=(0.9, 0.98), eps=1e-6)
        for step in tqdm(range(recipe.steps), desc="small CLIP", unit="step", disable=quiet):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * lr_factor(schedule, step, recipe.steps)
            rows = indices(step)
            drawn = torch.randint(
                len(recipe.templates), (len(rows),), generator=generator_for(recipe.seed, "template", step)
            )
            pixels = (images[rows][:, None].float().div(255) - mean) / std
            of_images = model.encode_image(pixels, normalize=True)
            of_captions = model.encode_text(captions, normalize=True)  # all that there are: fewer than a batch has
            loss = contrast(
                of_images, of_captions[classes[rows] * len(recipe.templates) + drawn], model.logit_scale.exp()
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.logit_scale.data.clamp_(0, LARGEST_SCALE)
    return {name: value.clone() for name, value in model.state_dict().items()}
