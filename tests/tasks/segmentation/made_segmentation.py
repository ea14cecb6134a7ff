"""Small cases and settings for the tests of the task segmentation.

Without nnU-Net, tests that import this module are skipped."""

import numpy as np
import pytest
import torch

from scripts.cli.common import compose_config
from tasks.engine.config import read_config
from tasks.segmentation import task
from tasks.segmentation.cases import Case, Facts

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nnunetv2")

CPU = torch.device("cpu")
MADE = Facts("MNI152", ["MRI"], ["background", "grey", "white"], 4, "none")
SETTINGS = [
    "task=segmentation",
    "scale=mini",
    "device=cpu",
    "quiet=true",
    "num_steps=6",
    "task.folds=2",
    "task.plan.patch=[16,16,16]",
    "task.plan.features=[2,4]",
    "task.schedule.warmup_steps=2",
    "task.log_every_steps=1",
    "task.eval_every_steps=null",
]
SGD = ["regularizer=sgd", "lr=1e-2", "regularizer.momentum=0.99", "regularizer.nesterov=true"]


def volume(values, affine=None):
    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)


def made_case(number: int) -> Case:
    """Return a bright box in noise, with a brighter box inside."""
    draw = np.random.default_rng(number)
    label = np.zeros((18, 18, 18), np.uint8)
    label[4:13, 4:13, 4:13] = 1
    x, y, z = draw.integers(5, 8, 3)
    label[x : x + 4, y : y + 4, z : z + 4] = 2
    image = (label * 60 + draw.integers(20, 60, label.shape)).astype(np.uint8)
    return Case(f"case_{number}", [volume(image)], volume(label))


def config(made, *more):
    return compose_config([*SETTINGS, f"data_dir={made}", *more])


def trainer_of(made, tmp_path, *more, fold=0):
    return task.make_trainer(read_config(config(made, f"runs_dir={tmp_path}", *more)), fold, CPU)
