"""Check the values of a configuration before anything is written."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tasks.engine.device import PRECISIONS
from tasks.engine.errors import UserError
from tasks.engine.records import check_names
from tasks.engine.schedule import DECAYS

WAYS = ("ddp", "fsdp")

NUMBER, WHOLE = "a number", "a whole number"
# key: (kind, least value, whether null is allowed)
NUMBERS: dict[str, tuple[str, float, bool]] = {
    "seed": (WHOLE, 0, False),
    "lr": (NUMBER, 0, False),
    "num_steps": (WHOLE, 1, False),
    "threads": (WHOLE, 1, True),
    "nodes": (WHOLE, 1, False),
    "gpus": (WHOLE, 1, False),
    "micro_batch": (WHOLE, 1, True),
    "checkpoint_every_steps": (WHOLE, 1, True),
    "checkpoint_every_minutes": (NUMBER, 0, True),
    "loader_workers": (WHOLE, 0, False),
    "task.batch_size": (WHOLE, 1, False),
    "task.log_every_steps": (WHOLE, 1, False),
    "task.eval_every_steps": (WHOLE, 1, True),
    "task.schedule.warmup_steps": (WHOLE, 0, False),
    "task.schedule.final_factor": (NUMBER, 0, False),
    "task.schedule.power": (NUMBER, 0, False),
    # Only some schedules have it, as with `warmup_prefix`.
    "task.schedule.start_factor": (NUMBER, 0, True),
    "task.weight_decay_multiplier": (NUMBER, 0, False),
}
FLAGS = ("quiet", "strict", "deterministic", "compile", "task.reg_embedding")


def check(cfg: DictConfig) -> None:
    """Raise UserError for a value of a wrong type or out of range. `optimizers.py` checks the regularizer's own."""
    for key, (kind, least, optional) in NUMBERS.items():
        value = OmegaConf.select(cfg, key)
        if not ((optional and value is None) or (_is(kind, value) and value >= least)):
            raise UserError(f"{key}={value} must be {kind} >= {least}{', or null' if optional else ''}")
    for key in FLAGS:
        if not isinstance(OmegaConf.select(cfg, key), bool):
            raise UserError(f"{key}={OmegaConf.select(cfg, key)} must be true or false")
    check_names(cfg)
    task = cfg.task
    if task.grad_clip is not None and not (_is(NUMBER, task.grad_clip) and task.grad_clip > 0):
        raise UserError(f"task.grad_clip={task.grad_clip} must be > 0, or null for none")
    for key in ("final_factor", "start_factor"):
        if (task.schedule.get(key) or 0) > 1:
            raise UserError(f"task.schedule.{key}={task.schedule[key]} must lie in [0, 1]")
    if not isinstance(task.schedule.get("warmup_prefix", True), bool):
        raise UserError(f"task.schedule.warmup_prefix={task.schedule.warmup_prefix} must be true or false")
    for key, choices in (("task.schedule.decay", DECAYS), ("task.precision", PRECISIONS), ("parallel", WAYS)):
        value = OmegaConf.select(cfg, key)
        if value not in choices:
            raise UserError(f"{key}={value!r} is unknown; choose one of {', '.join(choices)}")
    _check_split(cfg)


def _check_split(cfg: DictConfig) -> None:
    world, batch_size, micro_batch = cfg.nodes * cfg.gpus, cfg.task.batch_size, cfg.micro_batch
    if world > batch_size:
        raise UserError(
            f"nodes={cfg.nodes} x gpus={cfg.gpus} are more than the {batch_size} examples of a batch (task.batch_size)"
        )
    if micro_batch is not None and batch_size % (world * micro_batch):
        raise UserError(
            f"micro_batch={micro_batch} on {world} process(es) does not divide task.batch_size={batch_size}; choose one that does, or null"
        )


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return kind == NUMBER or value == int(value)
