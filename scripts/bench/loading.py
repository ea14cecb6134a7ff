"""Does reading images hold the model up?  python scripts/bench/loading.py [task=clip] [rounds=10] [photos=64] [key=value of train.py ...]

Made photographs of ImageNet's usual size (500 x 375 pixels, JPEG) in folders. By turns, in each round one batch each of: this repository's
loader, timm's loader with the same augmentation and mixup, both in this process without workers, and the model's training step on
`device=`. Images a second (median), the ratio to timm's loader of the same round (median and quartiles), and how many workers would feed
the model. With task=clip the model has drawn weights in place of OpenAI's, which are as fast, and two classes.
"""

import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.common import compose_config, one_line_errors
from tasks.engine.device import autocast, pick_device
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer
from tasks.engine.run import build_workload

OURS, TIMM, MODEL = "this repository's loader", "timm's loader", "the model's step"
WARM_UP = 2  # rounds that do not count
DEFAULTS = {"task": "imagenet", "scale": "paper", "device": "cpu", "task.batch_size": "32"}
CLIP = {
    "task.zero_shot.classes": "[bag,boot]",
    "task.zero_shot.templates": "['a photo of a {}.']",
    "task.wise_ft": "[]",
}


def make_photos(root: Path, count: int) -> None:
    """`count` JPEG files for training and two for validation, in two classes: smooth colours with some noise, 60 to 80 KB each."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count + 2):
        folder = root / "imagenet" / ("train" if number < count else "val") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(smooth) + generator.normal(0, 12, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.JPEG", quality=90)


def timm_batches(cfg: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """As timm's train.py makes them without its prefetcher, which needs a GPU; epoch after epoch."""
    from timm.data import Mixup, create_loader
    from torchvision.datasets import ImageFolder

    data, augment = cfg.task.data, cfg.task.augment
    mixed = "mixup" in augment  # CLIP's images are cropped, and nothing else
    loader = create_loader(
        ImageFolder(Path(cfg.data_dir) / "imagenet" / "train"),
        input_size=(3, data.image_size, data.image_size),
        batch_size=cfg.task.batch_size,
        is_training=True,
        scale=tuple(augment.crop_scale),
        hflip=0.5 if mixed else 0.0,
        color_jitter=augment.get("color_jitter"),
        auto_augment=augment.get("randaugment"),
        interpolation=data.interpolation,
        mean=tuple(data.mean),
        std=tuple(data.std),
        re_prob=augment.get("erasing", 0.0),
        re_mode="pixel",
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    if not mixed:
        yield from batches
    mix = Mixup(
        augment.mixup, augment.cutmix, label_smoothing=augment.label_smoothing, num_classes=cfg.task.model.num_classes
    )
    for images, labels in batches:
        yield mix(images, labels)


def save_drawn_clip(path: Path, architecture: str) -> None:
    """A checkpoint of open_clip's model of that name, with the weights that it begins with."""
    from tasks.clip.model import build_clip, shape_of

    torch.save(build_clip(shape_of(architecture)).state_dict(), path)


def turns(cfg: Any, device: torch.device) -> dict[str, Callable[[], None]]:
    """What takes one batch of each."""
    reading = build_workload(cfg, torch.device("cpu"))
    training = build_workload(cfg, device)
    optimizer = build_optimizer(cfg, training.model)
    size, steps, others = cfg.task.batch_size, itertools.count(), timm_batches(cfg)
    batch = training.batch_at(0)[0:size]

    def step() -> None:
        training.model.train()
        optimizer.zero_grad(set_to_none=True)
        with autocast(cfg.task.precision, device):
            loss = training.loss(training.model, batch)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return {OURS: lambda: reading.batch_at(next(steps))[0:size], TIMM: lambda: next(others), MODEL: step}  # type: ignore[dict-item]


def measure(parts: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round; who begins changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    names = list(parts)
    for number in range(WARM_UP + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            parts[name]()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(seconds: dict[str, list[float]], images: int) -> list[str]:
    """A line for each; `images`: of a round."""
    lines = [f"{'':26} {'images/s':>10} {'x timm (quartiles)':>24}"]
    for name, times in seconds.items():
        ratios = [other / own for other, own in zip(seconds[TIMM], times, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        spread = f"{median(ratios):.3f} ({low:.3f} to {high:.3f})" if name == OURS else ""
        lines.append(f"{name:26} {images / median(times):10,.1f} {spread:>24}".rstrip())
    needed = math.ceil(median(seconds[OURS]) / median(seconds[MODEL]))
    return [*lines, f"loader_workers={needed} keep up with the model, on as many cores of this machine"]


def main(arguments: list[str]) -> None:
    """Parses rounds=, photos= and keys of train.py."""
    given = dict(argument.split("=", 1) for argument in arguments)
    try:
        rounds, photos = (int(given.pop(key, default)) for key, default in (("rounds", "10"), ("photos", "64")))
    except ValueError as error:
        raise UserError(f"rounds= and photos= must be whole numbers: {error}") from None
    if rounds < 2:
        raise UserError(f"rounds={rounds} must be at least 2")
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), photos)
        of_task = CLIP | {"task.checkpoint": f"{folder}/clip.pt"} if given.get("task") == "clip" else {}
        keys = DEFAULTS | of_task | given | {"data_dir": folder, "loader_workers": "0"}
        cfg = compose_config([f"{key}={value}" for key, value in keys.items()])
        if of_task:
            save_drawn_clip(Path(cfg.task.checkpoint), cfg.task.architecture)
        device = pick_device(cfg.device)
        torch.set_num_threads(cfg.threads or 1)
        seconds = measure(turns(cfg, device), rounds)
    model = cfg.task.architecture if of_task else cfg.task.model.timm
    print(f"{model}, {cfg.task.data.image_size} pixels, batches of {cfg.task.batch_size}, on {device}; {rounds} rounds")
    print("\n".join(report(seconds, cfg.task.batch_size)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
