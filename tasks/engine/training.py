"""The one training loop: forward, backward, clip, step, with logs, dynamics, checkpoints and exact resuming."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from cpr import AdamCPR, regularized_names, snapshot
from cpr.measures import value_of
from cpr.wrapper import CPR
from tasks.engine import checkpoint, sharding
from tasks.engine.batching import micro_batches, size_of
from tasks.engine.config import Config
from tasks.engine.device import autocast
from tasks.engine.errors import Diverged, Interrupted, UserError
from tasks.engine.files import Lock, Log
from tasks.engine.layer_groups import layer_groups
from tasks.engine.optimizers import evaluating
from tasks.engine.parallel import Ranks
from tasks.engine.replicas import Replicas
from tasks.engine.reporting import WandbLog, progress_bar, show_speed
from tasks.engine.schedule import lr_factor
from tasks.engine.seeding import derive, random_state, restore_random_state, seed_everything
from tasks.engine.signals import Requests
from tasks.engine.terminal import say
from tasks.engine.throughput import peak_flops, rates
from tasks.engine.workload import Workload

LOGS = ("metrics.jsonl", "dynamics.jsonl")


class Training:
    """One run's state while it trains. `step` counts finished updates.

    Every process of `ranks` holds this state and does the same work. Only the first one writes.
    """

    def __init__(
        self,
        cfg: Config,
        folder: Path,
        lock: Lock | None,
        workload: Workload,
        optimizer: Optimizer,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.cfg, self.folder, self.workload, self.optimizer, self.device = cfg, folder, workload, optimizer, device
        self.lock = lock  # held by the first process
        self.ranks = ranks
        # Several processes add up gradients here if each has the whole model. FSDP averages them
        # itself.
        self.replicas = (
            Replicas(workload.model.parameters(), ranks) if ranks.world > 1 and cfg.parallel == "ddp" else None
        )
        self.loss_scale = ranks.world if cfg.parallel == "fsdp" else 1
        self.run_id = folder.name
        self.step = 0
        self.seconds = 0.0  # whole run, including its earlier processes
        self.cpu_seconds = 0.0  # of this process and its threads in that time
        self.stepping_seconds = 0.0  # the part spent in updates and their logs, for steps per second
        self.peak = peak_flops(cfg.task.precision, device)
        self.lap = (0, 0.0)  # step and stepping_seconds at the last log
        self.loss_sum = torch.zeros((), device=device)
        self.loss_count = 0
        self.metrics, self.dynamics = (Log(folder / name if ranks.first else Path(os.devnull)) for name in LOGS)
        self.matrix_names = regularized_names(workload.model, cfg.task.reg_embedding)
        groups = layer_groups(workload.model, self.matrix_names)
        self.wandb = WandbLog(cfg, self.run_id, folder, groups, ranks.first)
        self.last_checkpoint = time.monotonic()
        # What trained the steps so far (attempts.py). None: the checkpoint does not say.
        self.states: list[dict[str, Any]] | None = []

    def resume(self) -> None:
        """Resume from the newest whole checkpoint with whole logs, or start from the beginning."""
        saved = self._newest()
        if saved is None:
            self._log_sizes()  # at initialization: what bounds and growth are measured against
            return
        sharding.load(self.workload.model, self.optimizer, saved["model"], saved["optimizer"])
        random_states = saved["random"]
        if self.ranks.rank < len(random_states):
            restore_random_state(random_states[self.ranks.rank])
        else:  # more processes than before
            seed_everything(derive(self.cfg.seed, "process", self.ranks.rank, saved["step"]))
        self.step, self.seconds, self.stepping_seconds = saved["step"], saved["seconds"], saved["stepping_seconds"]
        self.cpu_seconds = saved.get("cpu_seconds", self.seconds)  # older checkpoints don't have it
        self.loss_sum.copy_(saved["loss_sum"])
        self.loss_count = saved["loss_count"]
        self.states = saved.get("states")
        self.lap = (self.step, self.stepping_seconds)
        if not self.cfg.quiet:
            say(f"resuming {self.run_id} at step {self.step} of {self.cfg.num_steps}")

    def _newest(self) -> dict[str, Any] | None:
        """Return the checkpoint to resume from, after cutting the logs back to it.

        The first process finds it, and the others read the same file.
        """
        saved, logs = None, (self.metrics, self.dynamics)

        def hold(content: dict[str, Any]) -> bool:
            return all(log.holds(content["logs"][log.path.name]) for log in logs)

        with self.ranks.together():
            if self.ranks.first:
                damage: list[str] = []
                saved = checkpoint.load(self.folder, self.run_id, hold, damage.append)
                for line in damage:
                    say(f"{line}: step {saved['step'] if saved else 0}")
                for log in logs:
                    log.cut(None if saved is None else saved["logs"][log.path.name])
                if saved is None:
                    self.dynamics.append({"matrices": self.matrix_names})
        path = self.ranks.from_first(saved and saved["path"])
        with self.ranks.together():
            if path and not self.ranks.first:
                saved = checkpoint.read(Path(path)) if Path(path).exists() else None
                if saved is None:
                    raise UserError(f"{path} does not exist here; all processes must see the same runs_dir")
        return saved

    def save(self) -> None:
        """Write a checkpoint. Only its random states depend on the number of processes."""
        model, optimizer = self.unsharded_state()
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "stepping_seconds": self.stepping_seconds,
            "model": model,
            "optimizer": optimizer,
            "random": self.ranks.of_all(random_state()),
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "states": self.states,
        }
        with self.ranks.together():
            if self.ranks.first:
                assert self.lock is not None
                self.lock.check()
                content["logs"] = {log.path.name: log.mark() for log in (self.metrics, self.dynamics)}
                checkpoint.save(self.folder, self.run_id, content)
        self.last_checkpoint = time.monotonic()

    def unsharded_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the trained part of the model's state and the optimizer's state, without shards.

        All processes must call it. Only the first one gets the states.
        """
        states = sharding.trained_state(self.workload.model), self.optimizer.state_dict()
        return sharding.unsharded(states[0], self.ranks), sharding.unsharded(states[1], self.ranks)

    def train(self, requests: Requests, progress: Callable[[int], None] | None = None) -> dict[str, float]:
        """Train to the end, evaluate, and return the final metrics.

        Raises:
            Diverged: a loss or a final metric is not finite.
            Interrupted: a signal asked to stop. A checkpoint has been written.
        """
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()
        bar = progress_bar(self.cfg, self.step, self.run_id, self.ranks.first)
        if progress:
            progress(self.step)
        try:
            with self._counted(), autocast(self.cfg.task.precision, self.device):
                if self.workload.at_start:
                    self.workload.at_start(self.workload.model)
            while self.step < self.cfg.num_steps:
                with self._counted():
                    begin = time.monotonic()
                    self._update()
                    bar.update()
                    if progress:
                        progress(1)
                    self._log(bar)
                    self.stepping_seconds += time.monotonic() - begin
                    self._evaluate_if_due()
                self._checkpoint_if_due(requests)
            with self._counted():
                metrics = self._evaluate(last=True)
            if wrong := [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]:
                raise Diverged(f"final metric {' and '.join(wrong)}")
            return metrics
        finally:
            bar.close()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Add the time of the block to the run's."""
        begin, cpu = time.monotonic(), time.process_time()
        yield
        self.seconds += time.monotonic() - begin
        self.cpu_seconds += time.process_time() - cpu

    def close(self, failed: bool = False) -> None:
        self.metrics.close()
        self.dynamics.close()
        self.wandb.close(failed)

    def _update(self) -> None:
        cfg, model = self.cfg, self.workload.model
        factor = lr_factor(cfg.task.schedule, self.step, cfg.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.lr * factor
        batch = self.workload.batch_at(self.step)
        sharding.check_parts(model, size_of(batch), self.ranks)
        self.optimizer.zero_grad(set_to_none=True)
        model.train()
        total = torch.zeros_like(self.loss_sum)
        parts = micro_batches(batch, self.ranks.rank, self.ranks.world, cfg.micro_batch)
        for number, (part, share) in enumerate(parts, start=1):
            with autocast(cfg.task.precision, self.device):
                loss = self.workload.loss(model, part)
            if loss.dim():
                raise UserError(
                    f"the task's loss has the shape {list(loss.shape)}; it must return a 0-dim tensor, a mean"
                )
            if self.replicas and number == len(parts):
                self.replicas.listen()
            (share * self.loss_scale * loss).backward()
            total += share * loss.detach()
        if self.replicas:
            self.replicas.finish()
        if cfg.task.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), cfg.task.grad_clip)
        self.optimizer.step()
        self.step += 1
        self.loss_sum += self.ranks.add_up(total)
        self.loss_count += 1

    def _log(self, bar: tqdm) -> None:
        if self.step % self.cfg.task.log_every_steps and self.step != self.cfg.num_steps:
            return
        loss = (self.loss_sum / self.loss_count).item()
        if not math.isfinite(loss):
            raise Diverged(f"loss is {loss} between steps {self.step - self.loss_count + 1} and {self.step}")
        row = {"step": self.step, "loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}
        speed = self._speed()
        show_speed(bar, speed)
        with self.ranks.together():
            self.metrics.append(row)
            self.wandb.append(row | speed)
        self._log_sizes()
        self.loss_sum.zero_()
        self.loss_count = 0

    def _log_sizes(self) -> None:
        sizes = matrix_sizes(self.workload.model, self.matrix_names, self.optimizer)
        with self.ranks.together():
            self.dynamics.append({"step": self.step} | sizes)
            self.wandb.append_sizes(self.step, sizes)

    def _evaluate_if_due(self) -> None:
        every = self.cfg.task.eval_every_steps
        if every is None or self.step % every or self.step == self.cfg.num_steps:
            return
        self.record_metrics(self._evaluate())

    def _evaluate(self, last: bool = False) -> dict[str, float]:
        workload = self.workload
        with evaluating(self.optimizer), autocast(self.cfg.task.precision, self.device):
            metrics = workload.evaluate(workload.model)
            if last and workload.at_end:
                metrics |= workload.at_end(workload.model)
        _check_metrics(metrics, workload.metric.name if last and workload.metric else None)
        return metrics

    def _speed(self) -> dict[str, float]:
        """Return the speed since the last log.

        It goes to the progress bar and wandb, not to metrics.jsonl, where it would differ between
        equal runs.
        """
        step, seconds = self.lap
        self.lap = (self.step, self.stepping_seconds)
        return rates(self.workload.work, self.step - step, self.stepping_seconds - seconds, self.peak, self.ranks.world)

    def record_metrics(self, metrics: dict[str, float]) -> None:
        """Append an evaluation to metrics.jsonl, with the model's text sample if the task has one."""
        row: dict[str, Any] = {"step": self.step} | metrics
        if self.workload.sample:
            with evaluating(self.optimizer), autocast(self.cfg.task.precision, self.device):
                row["sample"] = self.workload.sample(self.workload.model)
        with self.ranks.together():
            self.metrics.append(row)
            self.wandb.append(row)

    def _checkpoint_if_due(self, requests: Requests) -> None:
        every_steps, minutes = self.cfg.checkpoint_every_steps, self.cfg.checkpoint_every_minutes
        due = self.step == self.cfg.num_steps or (every_steps is not None and self.step % every_steps == 0)
        due = due or (minutes is not None and time.monotonic() - self.last_checkpoint > 60 * minutes)
        # A signal may reach only one process, or each at another step, and clocks differ.
        stop, wanted = self.ranks.largest(requests.stop or 0, due or requests.checkpoint)
        if wanted or stop:
            self.save()
            requests.checkpoint = False
        if stop:
            where = f"step {self.step} of {self.cfg.num_steps}"
            raise Interrupted(stop, f"{self.run_id} stopped at {where}; run the same command to resume")


def _check_metrics(metrics: dict[str, Any], wanted: str | None) -> None:
    """Raise UserError if a metric is not a number, or the `wanted` one is missing."""
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            kind = type(value).__name__
            raise UserError(
                f"the task's evaluation returned a {kind} for {name}; it must be a number, such as x.item()"
            )
    if wanted is not None and wanted not in metrics:
        raise UserError(f"the task's metric is {wanted}, but its evaluation returned {', '.join(metrics) or 'nothing'}")


def is_constrained(optimizer: Optimizer) -> bool:
    """Return whether the optimizer, or the one inside a schedule-free one, bounds its regularized set."""
    return isinstance(getattr(optimizer, "base", optimizer), AdamCPR | CPR)


def matrix_sizes(model: nn.Module, names: list[str], optimizer: Optimizer) -> dict[str, list[float | None]]:
    """Return R of every regularized matrix, in the order of `names`. CPR adds κ (None while unset) and λ."""
    if is_constrained(optimizer):
        rows = snapshot(optimizer, model)
        return {
            "R": [rows[name].R for name in names],
            "kappa": [rows[name].kappa for name in names],
            "lambda": [rows[name].lam for name in names],
        }
    parameters = dict(model.named_parameters())
    return {"R": [value_of("l2", parameters[name].detach()).item() for name in names]}


def without_bound(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return the matrices for which κ was never set."""
    if not is_constrained(optimizer):
        return []
    return [name for name, row in snapshot(optimizer, model).items() if not row.is_set]
