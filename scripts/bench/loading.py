"""Compare image loading with the model's speed:  python scripts/bench/loading.py task=clip

The images are generated photographs of ImageNet's usual size (500 x 375 pixels, JPEG) in folders.
Each round takes one batch, in turn, from

- this repository's loader, in this process without workers,
- timm's loader with the same augmentation and mixup, also without workers,
- the model's training step on `device=`.

Prints images per second (median), the ratio to timm's loader in the same round (median and
quartiles), and the number of workers that would keep up with the model. With task=clip the model
has random weights, which are as fast as OpenAI's, and two classes.
"""

import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import SCALE, Command, Key, whole
from tasks.engine.config import read_config

if TYPE_CHECKING:
    import torch

COMMAND = Command(
    "scripts/bench/loading.py",
    __doc__,
    keys=(
        Key("task", "imagenet, clip, or another task of images in folders", "imagenet"),
        replace(SCALE, default="paper"),
        Key("device", "the device of the model's step", "cpu"),
        Key("rounds", "measured rounds", 10, type=whole(2)),
        Key("photos", "images that are generated", 64, type=whole(1)),
    ),
    train_keys=True,
)
OURS, TIMM, MODEL = "this repository's loader", "timm's loader", "the model's step"
WARM_UP = 2  # rounds that do not count
DEFAULTS = {"task.batch_size": "32", "gpus": "1", "micro_batch": "null"}
CLIP = {
    "task.zero_shot.classes": "[bag,boot]",
    "task.zero_shot.templates": "['a photo of a {}.']",
    "task.wise_ft": "[]",
}


def make_photos(root: Path, count: int) -> None:
    """Write `count` JPEG files for training and two for validation, in two classes.
    They are smooth colours with some noise, 60 to 80 KB each.
    """
    import numpy as np
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


def timm_batches(cfg: Any) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Yield batches, epoch after epoch, as timm's train.py makes them without its prefetcher.
    The prefetcher needs a GPU.
    """
    from timm.data import Mixup, create_loader
    from torchvision.datasets import ImageFolder

    data, augment = cfg.task.data, cfg.task.augment
    mixed = "mixup" in augment  # CLIP's images are only cropped
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
    """Save a checkpoint of open_clip's model of that name, with its initial weights."""
    import torch

    from tasks.clip.model import build_clip, shape_of

    torch.save(build_clip(shape_of(architecture)).state_dict(), path)


def turns(cfg: Any, device: "torch.device") -> dict[str, Callable[[], None]]:
    """Return, for each part, the function that takes one batch."""
    import torch

    from tasks.engine.device import autocast
    from tasks.engine.optimizers import build_optimizer
    from tasks.engine.run import build_workload

    config = read_config(cfg)
    reading = build_workload(config, torch.device("cpu"))
    training = build_workload(config, device)
    optimizer = build_optimizer(config, training.model)
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
    """Return the seconds of each round. Each round starts with the next part."""
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
    """Return a line for each part. `images`: the number of images in a round."""
    lines = [f"{'':26} {'images/s':>10} {'x timm (quartiles)':>24}"]
    for name, times in seconds.items():
        ratios = [other / own for other, own in zip(seconds[TIMM], times, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        spread = f"{median(ratios):.3f} ({low:.3f} to {high:.3f})" if name == OURS else ""
        lines.append(f"{name:26} {images / median(times):10,.1f} {spread:>24}".rstrip())
    needed = math.ceil(median(seconds[OURS]) / median(seconds[MODEL]))
    return [*lines, f"loader_workers={needed} keep up with the model, on as many cores of this machine"]


def main(arguments: list[str]) -> None:
    """Measure and print."""
    request = COMMAND.parse(arguments)
    options = request.options
    import torch

    from tasks.engine.device import pick_device

    rounds = options["rounds"]
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), options["photos"])
        of_task = CLIP | {"task.checkpoint": f"{folder}/clip.pt"} if options["task"] == "clip" else {}
        chosen = {key: options[key] for key in ("task", "scale", "device")}
        keys = chosen | DEFAULTS | of_task | request.overrides | {"data_dir": folder, "loader_workers": "0"}
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
