"""What a run costs on a GPU, and whether it fits there, by its resources (configs/scale/paper/*.yaml)."""

import functools
import json
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from tasks.engine.resources import Resources, gigabytes, pass_sizes
from tasks.engine.section import read


class CardType(NamedTuple):
    """Memory in GB, and the speed of bfloat16 training as a multiple of an A100's, which is an estimate."""

    memory: int
    speed: float


CARDS = {
    "A100": CardType(80, 1.0),
    "A100-40GB": CardType(40, 1.0),
    "H100": CardType(80, 1.9),
    "RTX3090": CardType(24, 0.45),
    "RTX4090": CardType(24, 0.75),
}
DEFAULT = "A100"  # the paper's, in which prices are given
RECOMPUTED = 4 / 3  # of a step with gradient checkpointing: a second forward pass


class UnitPrice(NamedTuple):
    """GPU-seconds of one update, GPU-seconds of a run beside its updates, and where they are from."""

    update: float
    beside: float
    source: str


def resources_of(cfg: DictConfig) -> Resources | None:
    """Return the resources of a configuration. None at a scale or for a task that names none."""
    content: Any = OmegaConf.select(cfg, "resources")
    return None if content is None else _checked(json.dumps(OmegaConf.to_container(content, resolve=True)))


@functools.cache  # the runs of a task share theirs
def _checked(content: str) -> Resources:
    return read(Resources, json.loads(content), "resources")


def unit_price(cfg: DictConfig, card: str = DEFAULT) -> UnitPrice | None:
    """Return what a run costs on a card. None if its resources are unknown.
    An update takes as long as its arithmetic or as reading its images, whichever takes longer.
    """
    needs = resources_of(cfg)
    if needs is None:
        return None
    arithmetic = needs.gpu_seconds * needs.slower.get(cfg.regularizer.name, 1.0) * CARDS[needs.card].speed
    arithmetic *= RECOMPUTED if cfg.gradient_checkpointing else 1
    update, source = arithmetic / CARDS[card].speed, needs.source
    if needs.images_per_worker is not None and cfg.loader_workers:
        reading = cfg.task.batch_size / (cfg.loader_workers * needs.images_per_worker)
        if reading > update:
            update = reading
            source = f"{cfg.loader_workers} workers that read {needs.images_per_worker:g} images a second each"
    return UnitPrice(update, 3600 * needs.gpu_hours_beside * CARDS[DEFAULT].speed / CARDS[card].speed, source)


def run_seconds(cfg: DictConfig, card: str = DEFAULT) -> float | None:
    """Return the GPU-seconds of a whole run, or None if its resources are unknown."""
    price = unit_price(cfg, card)
    return None if price is None else price.update * cfg.num_steps + price.beside


def needed_gigabytes(cfg: DictConfig) -> float:
    """Return the GPU memory in GB that each process of a configuration needs. Its resources must be known."""
    needs = resources_of(cfg)
    assert needs is not None
    return gigabytes(
        needs,
        batch_size=cfg.task.batch_size,
        processes=cfg.nodes * cfg.gpus,
        micro_batch=cfg.micro_batch,
        sharded=cfg.parallel == "fsdp",
        checkpointing=cfg.gradient_checkpointing,
    )


class Fit(NamedTuple):
    """How a run fits into a card's memory. gigabytes is what a process then needs."""

    micro_batch: int | None
    gradient_checkpointing: bool
    gigabytes: float


def fit(cfg: DictConfig, gpus: int, card: str) -> Fit | str:
    """Return the largest forward pass that fits, or why none does.
    Gradient checkpointing is the last resort, because it takes time.
    """
    needs = resources_of(cfg)
    if needs is None:
        return "its needs are unknown"
    batch = cfg.task.batch_size
    if batch % gpus and needs.batch_norm:
        return f"{gpus} GPUs do not divide its batch of {batch}"
    sizes = pass_sizes(batch, gpus)[: 1 if needs.batch_norm else None]
    least = float("inf")
    for checkpointing in (False, True) if needs.checkpointed else (False,):
        for size in sizes:
            need = gigabytes(
                needs,
                batch_size=batch,
                processes=gpus,
                micro_batch=size,
                sharded=cfg.parallel == "fsdp",
                checkpointing=checkpointing,
            )
            if need <= CARDS[card].memory:
                return Fit(None if size == sizes[0] else size, checkpointing, need)
            least = min(least, need)
    why = ", because batch normalization needs the whole batch at once" if needs.batch_norm else ""
    each = f" on each of {gpus} GPUs" if gpus > 1 else ""
    return f"it needs {least:.0f} GB{each}{why}"
