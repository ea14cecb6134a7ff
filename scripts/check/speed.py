"""The stage that trains each task at the protocol's batch on random inputs: memory, speed, hours."""

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from scripts.check.problems import Problem, problem_of
from scripts.check.report import FAILED, PASSED, Stage
from scripts.cli.common import compose_config
from scripts.sweep.cards import needed_gigabytes, resources_of
from tasks.engine import fake
from tasks.engine.batching import micro_batches
from tasks.engine.config import Config, read_config
from tasks.engine.device import autocast
from tasks.engine.files import only_process
from tasks.engine.memory import checkpoint_activations
from tasks.engine.optimizers import build_optimizer
from tasks.engine.parallel import Ranks
from tasks.engine.signals import listening
from tasks.engine.throughput import peak_flops
from tasks.engine.training import Training
from tasks.engine.workload import Work, Workload

TASKS = ("cifar100", "gpt2", "gpt2m", "imagenet", "deit_base", "resnet50", "clip", "segmentation", "lora")
WARM_UP, LEAST = 2, 3  # steps that are not timed, and least number of those that are


def speed(device: torch.device, tasks: list[str], seconds: float) -> Stage:
    """Measure each task for its share of the time. One GPU takes the share of the batch that it has in the paper."""
    rows, failed = [], []
    for task in tasks:
        try:
            rows.append(_measured(task, device, seconds / len(tasks)))
        except (torch.OutOfMemoryError, MemoryError) as error:
            failed.append(task)
            rows.append({"task": task, "note": f"out of memory: {str(error).splitlines()[0][:120]}"})
        _forget(device)
    said = f"{len(rows) - len(failed)} of {len(rows)} tasks fit at the protocol's batch"
    return Stage("speed", FAILED if failed else PASSED, said, rows)


def configuration(task: str, device: torch.device) -> tuple[DictConfig, DictConfig]:
    """Return the configuration to measure, which is tiny on a CPU, and the paper's, for memory and prices."""
    paper = compose_config([f"task={task}", "scale=paper", "regularizer=adamcpr_ws"])
    scale = "paper" if device.type == "cuda" else fake.SCALE
    keys = [f"task={task}", f"scale={scale}", "regularizer=adamcpr_ws", f"device={device.type}", "gpus=1"]
    cfg = compose_config([*keys, "num_steps=1000000", "task.eval_every_steps=null", "quiet=true", "micro_batch=null"])
    cfg.task.log_every_steps = 1_000_000
    if "architecture" in cfg.task:  # a rehearsal's own architecture lies beside its weights
        cfg.task.architecture = paper.task.architecture
        cfg.task.data.image_size = paper.task.data.image_size
    if device.type == "cuda":
        cfg.task.batch_size = -(-paper.task.batch_size // paper.gpus)
        cfg.micro_batch = paper.micro_batch
    return cfg, paper


def _measured(task: str, device: torch.device, seconds: float) -> dict[str, Any]:
    cfg, paper = configuration(task, device)
    config = read_config(cfg)
    with torch.device(device):
        problem = problem_of(config.task, tiny=device.type != "cuda")
    problem.model.to(device)
    batch = problem.batch(config.task.batch_size, device)
    plain = _seconds_a_step(_plain_loop(config, problem, batch, device), device, seconds / 2)
    _forget(device)
    engine = _seconds_a_step(_engine_loop(config, problem, batch, device), device, seconds / 2)
    examples, work = config.task.batch_size, problem.work
    row = {
        "task": task,
        "examples a step": examples,
        "seconds a step": engine,
        f"{work.unit}s a second": examples * work.per_step / engine,
        "MFU": _mfu(work, examples, engine, config.task.precision, device),
        "x plain loop": plain / engine,
    }
    if device.type == "cuda":
        row |= _beside_resources(paper, engine, torch.cuda.max_memory_allocated(device) / 1e9)
    return row


def _beside_resources(paper: DictConfig, seconds: float, gigabytes: float) -> dict[str, Any]:
    """Return measured memory and hours of a run beside those that its resources name."""
    needs = resources_of(paper)
    assert needs is not None
    return {
        "GB": gigabytes,
        "GB expected": needed_gigabytes(paper),
        "GPU-hours a run": seconds * paper.gpus * paper.num_steps / 3600,
        f"GPU-hours a run on {needs.card}": needs.gpu_seconds * paper.num_steps / 3600,
    }


def _mfu(work: Work, examples: int, seconds: float, precision: str, device: torch.device) -> float | None:
    peak = peak_flops(precision, device)
    if peak is None or work.flops is None:
        return None
    return examples * work.per_step * work.flops / seconds / peak


def _plain_loop(cfg: Config, problem: Problem, batch: Any, device: torch.device) -> Callable[[int], None]:
    """Return a function that takes some steps in the shortest loop: torch's AdamW, no logs, no bounds."""
    trained = [p for p in problem.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    parts = micro_batches(batch, 0, 1, cfg.micro_batch)

    def steps(count: int) -> None:
        problem.model.train()
        for _ in range(count):
            for part, share in parts:
                with autocast(cfg.task.precision, device):
                    loss = share * problem.loss(problem.model, part)
                loss.backward()
            if cfg.task.grad_clip is not None:
                nn.utils.clip_grad_norm_(trained, cfg.task.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def _engine_loop(cfg: Config, problem: Problem, batch: Any, device: torch.device) -> Callable[[int], None]:
    """Return a function that takes some steps in the engine's loop, with AdamCPR whose bounds are set."""
    if cfg.gradient_checkpointing:
        checkpoint_activations(cfg, problem.blocks)
    workload = Workload(problem.model, lambda step: batch, problem.loss, lambda model: {}, None, problem.blocks or None)
    optimizer = build_optimizer(cfg, problem.model)
    done = 0

    def steps(count: int) -> None:
        nonlocal done
        with tempfile.TemporaryDirectory() as folder, only_process(Path(folder)) as lock, listening() as requests:
            own = cfg.model_copy(update={"num_steps": done + count})
            training = Training(own, Path(folder), lock, workload, optimizer, device, Ranks())
            with contextlib.closing(training):
                training.step = done
                training.train(requests)
        done += count

    return steps


def _seconds_a_step(steps: Callable[[int], None], device: torch.device, seconds: float) -> float:
    """Return the time of a step, measured over as many steps as fit into the given seconds."""
    begin = time.perf_counter()
    steps(WARM_UP)
    _wait(device)
    each = (time.perf_counter() - begin) / WARM_UP
    count = max(LEAST, int(seconds / each) - WARM_UP)
    begin = time.perf_counter()
    steps(count)
    _wait(device)
    return (time.perf_counter() - begin) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    """Free what is no longer used, and forget the peak of the memory in use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
