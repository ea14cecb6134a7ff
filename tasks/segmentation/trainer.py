"""CPRTrainer: nnU-Net's trainer with the suite's optimizers, regularizers, schedule and seeds.

A run of the suite uses its network, loss, batches and validation, and trains with the suite's own
loop (tasks/segmentation/task.py). nnU-Net's command line trains with nnU-Net's loop, and ends with
the same weights:

    CPR_CONFIG=my.yaml PYTHONPATH=. nnUNet_extTrainer=tasks/segmentation nnUNetv2_train 901
        3d_fullres 0 -tr CPRTrainer

my.yaml is the config.yaml of a run's folder.
`python scripts/train.py task=segmentation ... --cfg job --resolve` prints one too.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks.engine.config import Config, read_config
from tasks.engine.device import autocast, set_up
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer
from tasks.engine.schedule import lr_factor
from tasks.engine.seeding import derive, drawing_from, seed_everything
from tasks.segmentation.nnunet import AUGMENTING

VARIABLE = "CPR_CONFIG"


class MeanCrossEntropy(nn.Module):
    """The mean of a cross-entropy over the voxels that it does not ignore, summed from the loss of each."""

    def __init__(self, loss: nn.CrossEntropyLoss) -> None:
        super().__init__()
        self.loss = loss
        self.loss.reduction = "none"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits [batch, classes, *volume] and labels [batch, *volume]."""
        return self.loss(logits, target).sum() / (target != self.loss.ignore_index).sum()


class CPRTrainer(nnUNetTrainer):
    """nnU-Net's trainer with the suite's optimizer, precision, gradient clipping and learning rate.

    The learning rate is set at every iteration. `deterministic` also changes the batches and, on a
    GPU, how the loss is summed.

    Attributes:
        cfg: a run's configuration, from the environment's CPR_CONFIG if set.
        iteration: number of finished updates.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        plans.setdefault("continue_training", False)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.grad_scaler = None  # only float16 needs scaling, not bfloat16 or float32
        self.iteration = 0
        self.cfg: Config
        if VARIABLE in os.environ:
            self.configure(read_config(OmegaConf.load(os.environ[VARIABLE])))  # type: ignore[arg-type]

    def configure(self, cfg: Config) -> None:
        """Use a run's configuration."""
        self.cfg = cfg
        self.num_iterations_per_epoch = _epoch(cfg.num_steps)
        self.num_epochs = cfg.num_steps // self.num_iterations_per_epoch
        self.initial_lr = cfg.lr

    def initialize(self) -> None:
        """Seed, then build network, optimizer and loss."""
        if not hasattr(self, "cfg"):
            raise UserError(f"CPRTrainer needs a configuration: set {VARIABLE} to the config.yaml of a run's folder")
        set_up(self.cfg)
        seed_everything(self.cfg.seed)
        super().initialize()

    def _build_loss(self) -> nn.Module:
        """Replace nnU-Net's mean cross-entropy over voxels, which has no deterministic form on a GPU."""
        loss = super()._build_loss()
        if self.cfg.deterministic and self.device.type == "cuda":
            for part in list(loss.modules()):
                if isinstance(getattr(part, "ce", None), nn.CrossEntropyLoss):
                    part.ce = MeanCrossEntropy(part.ce)
        return loss

    def configure_optimizers(self) -> tuple[Optimizer, PolyLRScheduler]:
        optimizer = build_optimizer(self.cfg, self.network)
        if hasattr(optimizer, "eval"):
            raise UserError(
                f"nnU-Net evaluates the trained weights, and {self.cfg.regularizer.name} others; use train.py"
            )
        # train_step overrides this schedule.
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_train_epoch_start(self) -> None:
        # This also holds after nnU-Net has loaded a checkpoint.
        self.iteration = self.current_epoch * self.num_iterations_per_epoch
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        """Train as the parent does, with the configuration's learning rate, precision and gradient clipping."""
        task = self.cfg.task
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr * lr_factor(task.schedule, self.iteration, self.cfg.num_steps)
        data = batch["data"].to(self.device, non_blocking=True)
        targets = [target.to(self.device, non_blocking=True) for target in batch["target"]]
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(task.precision, self.device):
            loss = self.loss(self.network(data), targets)
        loss.backward()
        if task.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), task.grad_clip)
        self.optimizer.step()
        self.iteration += 1
        return {"loss": loss.detach().cpu().numpy()}

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's data loaders, or deterministic ones of a single process.

        The deterministic batch of an iteration depends on seed and iteration alone.
        """
        if not self.cfg.deterministic:
            return super().get_dataloaders()
        self.open_patches()
        return self._numbered(), self._validation_patches

    def open_patches(self) -> None:
        """Open the fold's cases for `batch_at` and `validation_batch_at`."""
        os.environ[AUGMENTING] = "0"
        self._patches, self._validation_patches = super().get_dataloaders()

    def batch_at(self, iteration: int) -> dict[str, Any]:
        """Return the training batch of an iteration.

        `data` is float32 [batch, channels, *patch], and `target` a list with one entry per output.
        """
        with drawing_from(derive(self.cfg.seed, "batch", iteration)):
            return self._patches.data_loader.generate_train_batch()

    def validation_batch_at(self, number: int) -> dict[str, Any]:
        """Return batch `number` of patches of the validation cases, the same one for every call."""
        with drawing_from(derive(self.cfg.seed, "validation", number)):
            return self._validation_patches.data_loader.generate_train_batch()

    def _numbered(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self.batch_at(self.iteration)


def _epoch(steps: int, most: int = 250) -> int:
    """Return nnU-Net's 250 iterations, or the next lower number that divides the steps."""
    return next(length for length in range(min(most, steps), 0, -1) if steps % length == 0)
