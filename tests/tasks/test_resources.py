"""The needs of each task at paper scale, against the models themselves: without memory, as fake tensors."""

from functools import partial
from typing import Any

import pytest
import torch
from saved_for_backward import saved_bytes
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from scripts.check.problems import Problem, problem_of
from scripts.cli.common import compose_config
from scripts.cli.parser import CONFIG_DIR
from scripts.sweep.cards import CARDS, needed_gigabytes, resources_of
from tasks.engine.config import read_config
from tasks.engine.records import run_id
from tasks.engine.resources import CONTEXT, SLACK, Resources, gigabytes
from tasks.gpt2.model import Attention

CPU = torch.device("cpu")


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


TASKS = (
    *("gpt2", "gpt2m", "gpt2l", "gpt2xl", "imagenet", "deit_base", "resnet50", "clip", "cifar100", "lora"),
    *("segmentation", "segmentation_btcv", "segmentation_brats"),
)
EVERY_PUSH = ("gpt2", "resnet50", "clip", "lora")  # the others take a minute


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in EVERY_PUSH else pytest.mark.weekly) for task in TASKS]
)
def test_parameters_and_activations_are_those_of_the_model(task):
    cfg = compose_config([f"task={task}", "scale=paper", "regularizer=adamw"])
    needs, settings = resources_of(cfg), read_config(cfg).task
    assert needs is not None
    if settings.name == "segmentation":
        pytest.importorskip("nnunetv2")
    problem = made(settings)
    trained, frozen = (
        sum(p.numel() for p in problem.model.parameters() if p.requires_grad is grad) / 1e6 for grad in (True, False)
    )
    assert (needs.trained, needs.frozen) == (pytest.approx(trained, rel=0.01), pytest.approx(frozen, rel=0.01))
    kept = of_one_example(problem, settings.precision)
    assert needs.activations == pytest.approx(kept, rel=0.05)
    assert (needs.checkpointed is not None) == bool(problem.blocks)
    if problem.blocks:
        for block in problem.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        again = of_one_example(problem, settings.precision) + kept / len(problem.blocks)
        assert needs.checkpointed == pytest.approx(again, rel=0.1)


def made(settings: Any) -> Problem:
    """Return the problem in training mode, with fake tensors. timm and open_clip can't initialize any without values."""
    with torch.device("meta" if settings.name in ("gpt2", "lora") else "cpu"):
        problem = problem_of(settings)
    for module in problem.model.modules():
        if isinstance(module, Attention):
            module.dropout = 0.0  # else a CPU has no flash attention, which keeps no weights
    with FakeTensorMode():
        as_fakes(problem.model)
    problem.model.train()
    return problem


def of_one_example(problem: Problem, precision: str) -> float:
    """Return the GB that a further example keeps."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        two, three = (
            saved_bytes(problem.model, partial(problem.loss, problem.model), problem.batch(n, CPU), precision)
            for n in (2, 3)
        )
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
        "gpus": {"cuda": 8},
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
    assert (cfg.gpus, cfg.micro_batch, cfg.loader_workers) == (
        needs.gpus["cuda"],
        needs.micro_batch,
        needs.loader_workers,
    )
    assert needed_gigabytes(cfg) < CARDS["A100"].memory
    assert needs.loader_workers < needs.cpus


@pytest.mark.parametrize(("given", "processes"), [("device=cuda", 8), ("device=cpu", 1), ("device=cuda:1", 1)])
def test_the_paper_s_number_of_gpus_is_for_gpus_and_changes_no_run_id(given, processes):
    cfg, paper = (compose_config(["task=gpt2", "scale=paper", *more]) for more in ([given], []))
    assert read_config(cfg).gpus == processes and run_id(cfg) == run_id(paper)
    assert compose_config(["task=gpt2", "scale=paper", given, "gpus=2"]).gpus == 2
