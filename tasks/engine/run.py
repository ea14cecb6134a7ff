"""run(cfg): the only way a run happens, from the command line, a sweep, a cluster or a test."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tasks.engine import attempts, checkpoint, fake, records
from tasks.engine.code import git_commit
from tasks.engine.config import Config, read_config
from tasks.engine.device import set_up, without_deterministic_form
from tasks.engine.environment import differences, state_of
from tasks.engine.errors import Diverged, Interrupted, OutOfMemory, TrainingFailed, Unusable, UserError
from tasks.engine.files import (
    DISK_FULL,
    Lock,
    disk_full_is_said,
    must_be_files,
    only_process,
    unusable_files_are_said,
    write_bytes_atomically,
)
from tasks.engine.memory import checkpoint_activations, is_out_of_memory, less_memory
from tasks.engine.optimizers import build_optimizer, never_acts
from tasks.engine.parallel import Ranks, join
from tasks.engine.regime import of_run
from tasks.engine.reporting import regularized_set
from tasks.engine.seeding import derive, seed_everything
from tasks.engine.sharding import check_batch_norm, distribute, has_batch_norm
from tasks.engine.signals import Requests, listening, stopping_at_once
from tasks.engine.terminal import WARNINGS, say, warn, warnings_of
from tasks.engine.throughput import rates
from tasks.engine.training import LOGS, Training, without_bound
from tasks.engine.workload import Workload

# What a run reads and writes in its folder.
FILES = ("record.json", attempts.NAME, "config.yaml", WARNINGS, *LOGS, *checkpoint.NAMES)


def run(cfg: DictConfig, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Train the configured run, or go on with it, or return its record if it has ended.

    `progress` is told the number of steps that have been done since it was last told; at first, those before a resumption.

    Raises:
        UserError: it cannot be started as asked. Held: another process is at work on it. Unusable: its files are not to be read or
            written, or its lock is lost. DiskFull: there is no space left.
        TrainingFailed: It diverged (a loss or a final metric is not finite) or failed, now or on record.
        OutOfMemory: Now. It is recorded after three attempts.
        Interrupted: after a signal, with a checkpoint written.
    """
    config: Config = read_config(cfg)
    fake.check_run(config.scale, Path(config.data_dir))
    git_commit()  # now, since this is the code that trains; a commit may be made while it does
    ranks, device = join(config)
    folder = records.run_folder(cfg)
    with (
        disk_full_is_said(folder),
        _unusable_is_noted(folder, ranks),
        unusable_files_are_said(folder),
        contextlib.ExitStack() as held,
    ):
        lock = record = None
        with ranks.together():
            if ranks.first:
                _make(folder, cfg.runs_dir)
                lock = held.enter_context(only_process(folder))
                must_be_files(folder, FILES)
                records.forget_unusable(folder)
                record = records.ended(folder, say)
        record = ranks.from_first(record)
        if record is None:
            held.enter_context(warnings_of(folder))
            record = _train(config, folder, lock, ranks, device, progress)
    if record["status"] != "finished":
        ended = f"run {record['run_id']} {record['status']}: {record['reason']}"
        raise TrainingFailed(f"{ended}; to try it again: python scripts/retry.py {folder}")
    return record


@contextlib.contextmanager
def _unusable_is_noted(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Leave a note for whoever waits for the run elsewhere, such as the submitter of a cluster's job."""
    try:
        yield
    except Unusable as error:
        if ranks.first:
            records.note_unusable(folder, str(error))
        raise


def _make(folder: Path, runs_dir: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        if folder.parent.is_dir() and os.path.lexists(folder):
            raise Unusable(f"{folder} is not a folder; set it aside with: python scripts/retry.py {folder}") from error
        raise UserError(f"runs_dir={runs_dir} cannot hold runs: {error}") from error


def build_workload(cfg: Config, device: torch.device) -> Workload:
    """Return the task's workload, with its model on `device`.

    Raises:
        UserError: a package that the task needs is missing.
    """
    try:
        task = importlib.import_module(f"tasks.{cfg.task.name}.task")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("tasks."):
            raise
        raise UserError(f"task={cfg.task.name} needs the package {error.name}: pip install '.[suite]'") from error
    if not hasattr(task, "build"):
        raise UserError(f"tasks/{cfg.task.name}/task.py has no function build(cfg, device)")
    workload = task.build(cfg, device)
    workload.model.to(device)
    return workload


def _train(
    cfg: Config,
    folder: Path,
    lock: Lock | None,
    ranks: Ranks,
    device: torch.device,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    training: Training | None = None
    metrics: dict[str, float] = {}
    status, reason = "finished", None
    try:
        training = _begin(cfg, folder, lock, ranks, device)
        with listening() as requests:
            metrics = _to_the_end(training, requests, progress)
    except TrainingFailed as failure:
        status, reason = "diverged" if isinstance(failure, Diverged) else "failed", str(failure)
    finally:
        if training is not None:
            training.close(failed=status != "finished")
    record = _summary(cfg, training, metrics, (status, reason), ranks, device)
    with ranks.together():
        if ranks.first:
            assert lock is not None
            lock.check()
            for log in (training.metrics, training.dynamics) if training is not None else ():
                log.check()
            states = training.states if training else attempts.states(folder)
            record = records.write_record(folder, record | {"states": states, "regime": of_run(cfg, folder)})
            checkpoint.finish(folder)
    return ranks.from_first(record)


def _begin(cfg: Config, folder: Path, lock: Lock | None, ranks: Ranks, device: torch.device) -> Training:
    """Build the model and everything else, and take the run up where its last checkpoint left it."""
    with ranks.together():
        deaths = attempts.note_begin(folder) if ranks.first else 0
    deaths = ranks.from_first(deaths)
    if deaths >= attempts.LIMIT:
        if ranks.first:
            attempts.note_end(folder, None)
        raise TrainingFailed(
            f"it ended {deaths} times without an error before its first step: killed, or out of memory"
        )
    try:
        with stopping_at_once(folder.name):
            training = _set_up(cfg, folder, lock, ranks, device)
            training.resume()
            return training
    except Exception as error:
        if is_out_of_memory(error):
            if deaths + 1 < attempts.LIMIT or ranks.world > 1:
                where = f"{folder.name} ran out of memory before its first step, in attempt {deaths + 1} of {attempts.LIMIT}"
                raise OutOfMemory(f"{where}; {less_memory(cfg, built=False)}") from error
            attempts.note_end(folder, None)
            raise TrainingFailed(f"out of memory before its first step, in {deaths + 1} attempts") from error
        if ranks.first and (ranks.world == 1 or isinstance(error, UserError | Interrupted)):
            attempts.note_end(folder, None)
        raise


def _set_up(cfg: Config, folder: Path, lock: Lock | None, ranks: Ranks, device: torch.device) -> Training:
    with ranks.together():
        set_up(cfg)
        seed_everything(cfg.seed)
        workload = build_workload(cfg, device)
        check_batch_norm(cfg, workload.model, ranks, device)
    model = distribute(cfg, workload.model, workload.blocks, ranks, device)
    workload = replace(workload, model=model)
    if cfg.gradient_checkpointing:
        checkpoint_activations(cfg, workload.blocks)
    if cfg.compile:
        for block in workload.blocks or [
            model
        ]:  # one graph for all blocks, where a whole model would be one graph for each
            block.compile()
    with ranks.together():
        optimizer = build_optimizer(cfg, model)
        if not ranks.first:  # the model is the same everywhere, dropout's masks are not
            seed_everything(derive(cfg.seed, "process", ranks.rank, 0))
        if not cfg.quiet:
            say(regularized_set(model, cfg.task.reg_embedding))
        if warning := never_acts(cfg):
            warn(warning)
        if ranks.first:
            write_bytes_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg.source, resolve=True).encode())
        return Training(cfg, folder, lock, workload, optimizer, device, ranks)


def _to_the_end(training: Training, requests: Requests, progress: Callable[[int], None] | None) -> dict[str, float]:
    """Return the final metrics. Raise TrainingFailed if the run diverged or failed for a reason of its own."""
    step, ranks = training.step, training.ranks
    deaths = _start(training)
    try:
        if deaths >= attempts.LIMIT:
            raise TrainingFailed(
                f"it ended {deaths} times without an error after step {step}: killed, or out of memory"
            )
        metrics = training.train(requests, progress)
        training.record_metrics(metrics)
    except TrainingFailed:
        _note_end(training)
        raise
    except Exception as error:
        if operation := without_deterministic_form(error):
            _note_end(training)
            raise UserError(
                f"{operation} has no deterministic form on a GPU; set deterministic=false and run the same command to resume: "
                "an interrupted run may then round differently from an uninterrupted one"
            ) from error
        if not is_out_of_memory(error):
            if ranks.world == 1 or isinstance(
                error, UserError | Interrupted
            ):  # else another process may have been killed
                _note_end(training)
            raise
        if (
            deaths + 1 < attempts.LIMIT or ranks.world > 1
        ):  # the other processes have no word of it: the next start counts it
            where = f"{training.run_id} ran out of memory at step {training.step}, in attempt {deaths + 1}"
            pieces = not has_batch_norm(training.workload.model)
            raise OutOfMemory(f"{where}; {less_memory(training.cfg, pieces)}") from error
        _note_end(training)
        raise TrainingFailed(f"out of memory at step {training.step}, in {deaths + 1} attempts") from error
    _note_end(training)
    return metrics


def _start(training: Training) -> int:
    """Note the start and what it runs on. Return how many attempts were killed at the same step.

    Raises UserError with strict=true if code, versions, hardware, kernel or data are others than those that trained so far.
    """
    cfg, folder, ranks = training.cfg, training.folder, training.ranks
    state = state_of(training.device, ranks.world, training.optimizer, training.workload.data)
    deaths = 0
    with ranks.together():
        if ranks.first:
            # Old checkpoints do not carry their states.
            before = training.states if training.states is not None else attempts.states(folder)
            training.states = attempts.taken_up(before, training.step, state)
            last = [entry for entry in training.states if entry["from"] < training.step][-1:]
            changed = differences(last[0], state) if last else []
            if changed and cfg.strict:
                attempts.note_end(folder, None)
                raise UserError(
                    f"{training.run_id} was trained to step {training.step} under another state ({'; '.join(changed)}); strict=true "
                    "refuses to resume: restore that state, or set strict=false"
                )
            if changed:
                warn(f"resumes at step {training.step} under another state: {'; '.join(changed)}")
            deaths = attempts.note_start(folder, training.step, state)
    return ranks.from_first(deaths)


def _note_end(training: Training) -> None:
    if training.ranks.first:
        attempts.note_end(training.folder, training.step)


def _summary(
    cfg: Config,
    training: Training | None,
    metrics: dict[str, float],
    ending: tuple[str, str | None],
    ranks: Ranks,
    device: torch.device,
) -> dict[str, Any]:
    """Return the record. Without a training the run failed before its first step: what only a model could tell is None."""
    about: dict[str, Any] = {
        "run_id": records.run_id(cfg.source),
        "status": ending[0],
        "reason": ending[1],
        "metrics": metrics,
        "seed": cfg.seed,
        "config": records.identity(cfg.source),
        "config_hash": records.config_hash(cfg.source),
        **state_of(
            device, ranks.world, training.optimizer if training else None, training.workload.data if training else None
        ),
    }
    if training is None:
        unknown = ("metric", "steps_per_second", "without_bound", "state_sha256")
        return about | {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0} | dict.fromkeys(unknown)
    metric = training.workload.metric
    return about | {
        "metric": None if metric is None else {"name": metric.name, "unit": metric.unit, "better": metric.better},
        "steps": training.step,
        "seconds": training.seconds,
        "cpu_seconds": training.cpu_seconds,
        "steps_per_second": training.step / training.stepping_seconds if training.stepping_seconds else None,
        **rates(training.workload.work, training.step, training.stepping_seconds, training.peak, training.ranks.world),
        "without_bound": without_bound(training.workload.model, training.optimizer),
        "state_sha256": checkpoint.digest(*training.unsharded_state()),
    }
