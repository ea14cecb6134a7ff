"""A plain training loop in the style of nanoGPT, to compare the engine's loop with.
It has no logs, checkpoints, resuming or bounds.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tasks.data.text.shards import data_set_folder
from tasks.engine.config import Config
from tasks.gpt2.config import Gpt2Task
from tasks.gpt2.model import GPT2


def train(cfg: Config[Gpt2Task], turn: Callable[[], None]) -> None:
    """Train the model of a gpt2 configuration on the CPU. Calls `turn` before the first step and after each."""
    task, context = cfg.task, cfg.task.model.context
    torch.manual_seed(cfg.seed)
    path = sorted(data_set_folder(Path(cfg.data_dir), task.data.name).glob("train-*.bin"))[0]
    tokens = np.memmap(path, np.uint16, "r")

    def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(tokens) - context, (task.batch_size,)).tolist()
        x, y = (
            torch.stack([torch.from_numpy(tokens[i + o : i + o + context].astype(np.int64)) for i in starts])
            for o in (0, 1)
        )
        return x, y

    def get_lr(step: int) -> float:
        warm_up = task.schedule.warmup_steps
        if step < warm_up:
            return cfg.lr * step / warm_up
        done = (step - warm_up) / (cfg.num_steps - warm_up)
        final = task.schedule.final_factor * cfg.lr
        return final + 0.5 * (1 + math.cos(math.pi * done)) * (cfg.lr - final)

    model = GPT2(task.model, task.loss_chunk)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, betas=task.betas, eps=task.eps)
    model.train()
    x, y = get_batch()
    turn()
    for step in range(cfg.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bf16"):
            logits = model(x)
            loss = cross_entropy(logits.flatten(0, 1), y.flatten())
        x, y = get_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task.grad_clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turn()
