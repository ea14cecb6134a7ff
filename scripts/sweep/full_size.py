"""Build each task's model of paper scale without memory for its parameters, and compare their number."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from scripts.cli.common import compose_config
from tasks.engine.config import read_config
from tasks.engine.errors import TrainingFailed

# By file of configs/task: GPT-2's in Table I.1 (results/mini/table_i1), timm's and OpenAI's models, Mistral with
# LoRA's matrices, and nnU-Net's network for the paper's patch. AMOS22's patch is the planner's.
PARAMETERS = {
    "cifar100": 11_220_132,
    "cifar100c": 11_220_132,
    "gpt2": 123_658_752,
    "gpt2m": 353_781_760,
    "gpt2l": 772_728_320,
    "gpt2xl": 1_187_094_400,
    "imagenet": 22_050_664,
    "deit_base": 86_567_656,
    "resnet50": 25_557_032,
    "clip": 151_277_313,
    "lora": 7_241_732_096 + 335_544_320,
    "segmentation": 30_785_994,
    "segmentation_btcv": 30_713_158,
    "segmentation_brats": 31_199_796,
}
# nnU-Net's spacing in mm, channels and labels of each data set.
VOLUMES = {
    "Heart": ((1.37, 1.25, 1.25), 1, 2),
    "BTCV": ((3.0, 0.76, 0.76), 1, 14),
    "BraTS": ((1.0, 1.0, 1.0), 4, 4),
}


def counted(task: str) -> int:
    """Return the number of parameters of a task's model at paper scale.

    Raises:
        TrainingFailed: it is another one than expected.
    """
    cfg = read_config(compose_config([f"task={task}", "scale=paper"])).task
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build(cfg).parameters())
    if count != PARAMETERS[task]:
        raise TrainingFailed(f"{task}: its model has {count:,} parameters, not {PARAMETERS[task]:,}")
    return count


def build(task: Any) -> nn.Module:
    """Return the model of a task's configuration, on torch's default device and without its pre-trained weights."""
    return BUILDERS[task.name](task)


def tiny_mistral(task: Any) -> nn.Module:
    """Return the fake Mistral of a rehearsal (tasks/lora/fake.py) with a task's LoRA."""
    from tasks.lora.fake import SHAPE

    return _lora(task, SHAPE)


def _resnet18(task: Any) -> nn.Module:
    from tasks.recipes.resnet18 import model

    return model(task)


def _gpt2(task: Any) -> nn.Module:
    from tasks.gpt2.task import model

    return model(task)


def _imagenet(task: Any) -> nn.Module:
    from tasks.imagenet.task import model

    return model(task)


def _clip(task: Any) -> nn.Module:
    from tasks.clip.model import build_clip, shape_of

    return build_clip(shape_of(task.architecture))


def _lora(task: Any, shape: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
    from transformers import MistralConfig, MistralForCausalLM

    from tasks.lora import adapters

    model: nn.Module = MistralForCausalLM(MistralConfig(**shape))  # the defaults are Mistral-7B's
    model.to(torch.bfloat16)
    adapters.add(model, task.lora.r, task.lora.alpha, task.lora.targets)
    return model


def _segmentation(task: Any) -> nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from tasks.segmentation.nnunet import Plan, apply

    spacing, channels, labels = VOLUMES[task.data.name]
    settings = {
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration: dict[str, Any] = {"spacing": list(spacing), "architecture": {"arch_kwargs": settings}}
    apply(configuration, Plan(task.plan.patch, task.plan.features, task.batch_size, task.folds))
    return get_network_from_plans(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        configuration["architecture"]["arch_kwargs"],
        ["conv_op", "norm_op", "dropout_op", "nonlin"],
        channels,
        labels,
        allow_init=False,
        deep_supervision=True,
    )


BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    "cifar100": _resnet18,
    "cifar100c": _resnet18,
    "gpt2": _gpt2,
    "imagenet": _imagenet,
    "clip": _clip,
    "lora": _lora,
    "segmentation": _segmentation,
}
