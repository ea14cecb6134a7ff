"""Build the workload of one fold from CPRTrainer's network, loss, batches and validation.

It is trained by the suite's own loop, not nnU-Net's. The suite's loop resumes with the same bits
after a kill at any step, and writes R, κ and λ over training. Its records and failures are those of
every other task. Both loops end with equal weights, as
tests/tasks/segmentation/test_segmentation_training.py checks.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tasks.engine import records
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.launch import launched
from tasks.engine.loading import loader
from tasks.engine.workload import Metric, Work, Workload
from tasks.segmentation import nnunet, raw, validation
from tasks.segmentation.config import SegmentationTask
from tasks.segmentation.nnunet import Plan

Batch = tuple[Tensor, tuple[Tensor, ...]]


def build(cfg: Config[SegmentationTask], device: torch.device) -> Workload:
    """Return the workload of one fold.

    Raises:
        UserError: nnU-Net or the data set is missing, or a setting is impossible.
    """
    nnunet.require()
    task, root = cfg.task, Path(cfg.data_dir).absolute()
    fold = fold_of(task.fold, task.folds, cfg.seed)
    if cfg.nodes * cfg.gpus > 1:
        raise UserError(
            "task=segmentation trains on one GPU, as nnU-Net would split the batch once more: set nodes=1 and gpus=1"
        )
    trainer = make_trainer(cfg, fold, device)
    if trainer.configuration_manager.batch_dice and cfg.micro_batch:
        raise UserError("nnU-Net's plan takes Dice over the whole batch: train it with micro_batch=null")
    trainer.initialize()
    trainer.optimizer = trainer.lr_scheduler = None  # the loop has equal ones of its own
    with nnunet.quietly():
        trainer.open_patches()
    if not task.mirror:
        trainer.inference_allowed_mirroring_axes = None
    trainer.set_deep_supervision_enabled(True)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        data, targets = batch
        return trainer.loss(model(data), list(targets))

    def evaluate(_: nn.Module) -> dict[str, float]:
        return (
            validation.online_dice(trainer, task.online_batches)
            if task.online_batches
            else validation.dice(trainer, cfg.loader_workers)
        )

    def at_end(_: nn.Module) -> dict[str, float]:
        metrics = validation.dice(trainer, cfg.loader_workers) if task.online_batches else {}  # else just evaluated
        if launched().rank == 0:
            validation.write_overlays(
                trainer, raw.folder_of(root, task.data.name), records.run_folder(cfg.source) / "overlays"
            )
        return metrics

    return Workload(
        model=trainer.network,
        batch_at=batches(trainer, cfg, device),
        loss=loss,
        evaluate=evaluate,
        metric=Metric("dice", "percent", "higher"),
        blocks=[*trainer.network.encoder.stages, *trainer.network.decoder.stages],
        work=Work("crop", task.batch_size),
        at_end=at_end,
        data=raw.digest(Path(cfg.data_dir).absolute(), task.data.name),
    )


def fold_of(fold: int | None, folds: int, seed: int) -> int:
    """Return the requested fold, else the seed's own.

    Seeds 1 to `folds` are the folds, each with its own random numbers.
    """
    return (seed - 1) % folds if fold is None else fold


def make_trainer(cfg: Config[SegmentationTask], fold: int, device: torch.device) -> Any:
    """Return a CPRTrainer of the run, after preprocessing. Its files go to the run's folder nnunet."""
    task, root, rank = cfg.task, Path(cfg.data_dir).absolute(), launched().rank
    results = records.run_folder(cfg.source).absolute() / ("nnunet" if rank == 0 else f"nnunet_{rank}")
    plan = Plan(task.plan.patch, task.plan.features, task.batch_size, task.folds)
    folder = nnunet.preprocessed(root, task.data.name, plan, cfg.loader_workers, results)
    from tasks.segmentation.trainer import CPRTrainer  # reads nnU-Net's environment

    plans, dataset = (json.loads((folder / name).read_text()) for name in (f"{nnunet.PLANS}.json", "dataset.json"))
    with nnunet.quietly():
        trainer = CPRTrainer(plans, nnunet.CONFIGURATION, fold, dataset, device)
    trainer.configure(cfg)
    return trainer


class _Patches(Dataset):
    """The batch of an iteration, for worker processes that read ahead."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __getitem__(self, step: int) -> Batch:
        batch = self.trainer.batch_at(step)
        return batch["data"], tuple(batch["target"])


def batches(trainer: Any, cfg: Config[SegmentationTask], device: torch.device) -> Callable[[int], Batch]:
    """Return `batch_at(step)`: data, float32 [batch, channels, *patch], and targets, on `device`.

    Each of the network's outputs has a target. The result does not depend on the number of
    processes that read ahead.
    """
    patches = _Patches(trainer)
    ahead: Iterator[Batch] = iter(())
    following = -1

    def batch_at(step: int) -> Batch:
        nonlocal ahead, following
        if not cfg.loader_workers:
            data, targets = patches[step]
        else:
            if step != following:
                ahead = loader(
                    patches,
                    cfg.loader_workers,
                    device,
                    batch_size=None,
                    sampler=range(step, max(cfg.num_steps, step + 1)),
                )
            data, targets = next(ahead)
            following = step + 1
        return data.to(device, non_blocking=True), tuple(target.to(device, non_blocking=True) for target in targets)

    return batch_at
