"""The needs of each task at paper scale, against the models themselves: without memory, as fake tensors."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from saved_for_backward import saved_bytes
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from scripts.cli.common import compose_config
from scripts.cli.parser import CONFIG_DIR
from scripts.sweep.cards import CARDS, needed_gigabytes, resources_of
from tasks.engine.config import read_config
from tasks.engine.resources import CONTEXT, SLACK, Resources, gigabytes


class Problem(NamedTuple):
    """A model, the loss of a batch, a batch of n examples, and the blocks whose activations can be computed again."""

    model: nn.Module
    loss: Callable[[Any], Tensor]
    batch: Callable[[int], Any]
    blocks: list[nn.Module]


def gpt2(task: Any) -> Problem:
    from tasks.gpt2.task import model

    network = model(task)
    for block in network.blocks:
        block.attention.dropout = 0.0  # else a CPU has no flash attention, which keeps no weights
    return Problem(
        network,
        lambda batch: network(batch, batch),
        lambda n: torch.zeros(n, task.model.context, dtype=torch.long),
        list(network.blocks),
    )


def of_images(network: nn.Module, size: int, blocks: list[nn.Module]) -> Problem:
    def loss(images: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(images).float(), torch.zeros(len(images), dtype=torch.long))

    return Problem(network, loss, lambda n: torch.zeros(n, 3, size, size), blocks)


def imagenet(task: Any) -> Problem:
    from tasks.imagenet.task import model

    network = model(task)
    return of_images(network, task.data.image_size, list(getattr(network, "blocks", [])))


def clip(task: Any) -> Problem:
    import open_clip

    from tasks.clip.model import Classifier, Head

    tower = open_clip.create_model(task.architecture, pretrained=None).visual
    network = Classifier(tower, Head(tower.output_dim, 1000, normalize=False))
    return of_images(network, task.data.image_size, list(network.tower.get_submodule("transformer.resblocks")))


def cifar100(task: Any) -> Problem:
    from tasks.recipes.resnet18 import model

    return of_images(model(task), 32, [])


def lora(task: Any) -> Problem:
    from transformers import MistralConfig, MistralForCausalLM

    from tasks.lora import adapters

    shape = MistralConfig(hidden_size=4096, intermediate_size=14336, num_key_value_heads=8)  # Mistral-7B's other sizes
    network = MistralForCausalLM(shape).to(torch.bfloat16)
    adapters.add(network, task.lora.r, task.lora.alpha, task.lora.targets)

    def loss(tokens: Tensor) -> Tensor:
        return network(input_ids=tokens, use_cache=False, logits_to_keep=1).logits.float().sum()

    return Problem(
        network, loss, lambda n: torch.zeros(n, task.data.max_tokens, dtype=torch.long), list(network.model.layers)
    )


STRIDES = {  # of the stages that nnU-Net's planner chooses for the patch
    "Heart": [1, 2, 2, 2, 2, (1, 2, 2)],
    "BTCV": [1, (1, 2, 2), 2, 2, 2, (1, 2, 2)],
    "BraTS": [1, 2, 2, 2, 2, 2],
}


def segmentation(task: Any) -> Problem:
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    first, most = task.plan.features
    strides, channels = STRIDES[task.data.name], 4 if task.data.name == "BraTS" else 1
    network = unet.PlainConvUNet(
        channels,
        len(strides),
        [min(first * 2**stage, most) for stage in range(len(strides))],
        nn.Conv3d,
        3,
        strides,
        2,
        2,
        2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    return Problem(
        network,
        lambda volumes: sum(out.float().sum() for out in network(volumes)),
        lambda n: torch.zeros(n, channels, *task.plan.patch),
        [],
    )


def as_fakes(network: nn.Module) -> None:
    """Replace a model's tensors by fake ones of the same sizes and types, in the FakeTensorMode that is active."""
    for module in network.modules():
        for name, tensor in list(module._parameters.items()):
            if tensor is not None:
                fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=tensor.requires_grad)
        for name, tensor in list(module._buffers.items()):
            if tensor is not None:
                module._buffers[name] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


MAKERS = {
    "gpt2": gpt2,
    "gpt2m": gpt2,
    "gpt2l": gpt2,
    "gpt2xl": gpt2,
    "imagenet": imagenet,
    "deit_base": imagenet,
    "resnet50": imagenet,
    "clip": clip,
    "cifar100": cifar100,
    "lora": lora,
    "segmentation": segmentation,
    "segmentation_btcv": segmentation,
    "segmentation_brats": segmentation,
}


EVERY_PUSH = ("gpt2", "resnet50", "clip", "lora")  # the others take a minute


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in EVERY_PUSH else pytest.mark.weekly) for task in MAKERS]
)
def test_parameters_and_activations_are_those_of_the_model(task):
    cfg = compose_config([f"task={task}", "scale=paper", "regularizer=adamw"])
    needs, settings = resources_of(cfg), read_config(cfg).task
    assert needs is not None
    problem = made(MAKERS[task], settings)
    trained, frozen = (
        sum(p.numel() for p in problem.model.parameters() if p.requires_grad is grad) / 1e6 for grad in (True, False)
    )
    assert (needs.trained, needs.frozen) == (pytest.approx(trained, rel=0.01), pytest.approx(frozen, rel=0.01))
    kept = of_one_example(problem, settings.precision)
    assert needs.activations == pytest.approx(kept, rel=0.05)
    assert (needs.checkpointed is not None) == bool(problem.blocks)
    if problem.blocks:
        for block in problem.blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        again = of_one_example(problem, settings.precision) + kept / len(problem.blocks)
        assert needs.checkpointed == pytest.approx(again, rel=0.1)


def made(make: Callable[[Any], Problem], settings: Any) -> Problem:
    """Return the problem in training mode, with fake tensors. timm and open_clip can't initialize any without values."""
    with torch.device("meta" if make in (gpt2, lora) else "cpu"):
        problem = make(settings)
    with FakeTensorMode():
        as_fakes(problem.model)
    problem.model.train()
    return problem


def of_one_example(problem: Problem, precision: str) -> float:
    """Return the GB that a further example keeps."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        two, three = (saved_bytes(problem.model, problem.loss, problem.batch(n), precision) for n in (2, 3))
    return (three - two) / 1e9


def test_weights_gradients_and_moments_take_the_bytes_that_the_formula_counts():
    """A real step of AdamCPR: float32 weights, gradients, two moments, and a few numbers for each matrix."""
    from cpr import AdamCPR

    model = nn.Sequential(nn.Linear(300, 400), nn.GELU(), nn.Linear(400, 300))
    optimizer = AdamCPR(model, lr=1e-3, kappa_init_method="warm_start", kappa_init_param=1)
    for _ in range(3):
        model(torch.randn(4, 300)).square().mean().backward()
        optimizer.step()
    tensors = [tensor for parameter in model.parameters() for tensor in (parameter, parameter.grad)]
    tensors += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(tensor.nbytes for tensor in tensors) == pytest.approx(16 * count, rel=0.001)


def needs_of(**changed: Any) -> Resources:
    common = {
        "gpus": 8,
        "micro_batch": None,
        "cpus": 1,
        "memory": 1,
        "gpu_seconds": 1,
        "card": "A100",
        "source": "a test",
    }
    return Resources(**common | {"trained": 1000.0, "activations": 1.0, "checkpointed": 0.1} | changed)


def test_memory_follows_the_split_of_batch_and_states():
    split = {"batch_size": 64, "processes": 8, "micro_batch": None, "sharded": False, "checkpointing": False}
    states = 18.0  # 16 bytes and autocast's 2 for each of 1,000 million parameters
    assert gigabytes(needs_of(), **split) == pytest.approx(SLACK * (states + 8) + CONTEXT)
    assert gigabytes(needs_of(), **split | {"micro_batch": 2}) == pytest.approx(SLACK * (states + 2) + CONTEXT)
    assert gigabytes(needs_of(), **split | {"sharded": True}) == pytest.approx(SLACK * (states / 8 + 8) + CONTEXT)
    assert gigabytes(needs_of(), **split | {"checkpointing": True}) == pytest.approx(SLACK * (states + 0.8) + CONTEXT)
    frozen = needs_of(trained=1.0, frozen=7000.0)
    assert gigabytes(frozen, **split) == pytest.approx(SLACK * (0.018 + 14 + 8) + CONTEXT)


@pytest.mark.parametrize("task", [path.stem for path in sorted((CONFIG_DIR / "task").glob("*.yaml"))])
def test_every_task_fits_an_a100_as_it_is_configured(task):
    cfg = compose_config([f"task={task}", "scale=paper", "regularizer=adamw"])
    needs = resources_of(cfg)
    assert needs is not None
    assert (cfg.gpus, cfg.micro_batch, cfg.loader_workers) == (needs.gpus, needs.micro_batch, needs.loader_workers)
    assert needed_gigabytes(cfg) < CARDS["A100"].memory
    assert needs.loader_workers < needs.cpus
