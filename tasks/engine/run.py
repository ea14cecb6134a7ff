"""run(cfg): the only way a run happens, from the command line, a sweep, a cluster or a test."""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tasks.engine import attempts, checkpoint, records
from tasks.engine.checks import check
from tasks.engine.device import set_up, without_deterministic_form
from tasks.engine.environment import git_commit, hardware, versions
from tasks.engine.errors import Interrupted, OutOfMemory, TrainingFailed, UserError
from tasks.engine.files import disk_full_is_said, only_process, write_bytes_atomically
from tasks.engine.optimizers import build_optimizer, never_acts
from tasks.engine.parallel import Ranks, join
from tasks.engine.reporting import regularized_set
from tasks.engine.seeding import derive, seed_everything
from tasks.engine.sharding import check_batch_norm, spread
from tasks.engine.signals import Requests, listening
from tasks.engine.terminal import say
from tasks.engine.throughput import rates
from tasks.engine.training import Training, without_bound
from tasks.engine.workload import Workload

LESS = "free some and start it again, or make the batch, the model or its input smaller"


def run(cfg: DictConfig, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Trains the configured run, or goes on with it, or returns its record if it has ended.

    `progress` is told the number of steps that have been done since it was last told; at first, those before a resumption.

    Raises UserError if it cannot be started as asked (Held if another process is at work on it), TrainingFailed if its loss is not
    finite (now or on record), OutOfMemory, and Interrupted after a signal, with a checkpoint written.
    """
    check(cfg)
    ranks, device = join(cfg)
    folder = records.run_folder(cfg)
    with disk_full_is_said(folder), contextlib.ExitStack() as held:
        record = None
        with ranks.together():
            if ranks.first:
                _make(folder, cfg.runs_dir)
                held.enter_context(only_process(folder))
                record = records.ended(folder, say)
        record = ranks.from_first(record)
        if record is None:
            record = _train(cfg, folder, ranks, device, progress)
    if record["status"] == "failed":
        raise TrainingFailed(f"run {record['run_id']} failed: {record['reason']}; to try it again: python scripts/retry.py {folder}")
    return record


def _make(folder: Path, runs_dir: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"runs_dir={runs_dir} cannot hold runs: {error}") from error


def build_workload(cfg: DictConfig, device: torch.device) -> Workload:
    """The task's workload, its model on `device`.

    Raises UserError for an unknown task.
    """
    name = f"tasks.{cfg.task.name}.task"
    try:
        task = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.rpartition(".")[0]):
            raise UserError(f"task={cfg.task.name} needs the package {error.name}: pip install '.[suite]'") from error
        raise UserError(f"task={cfg.task.name} is unknown: there is no {name.replace('.', '/')}.py") from error
    workload = task.build(cfg, device)
    workload.model.to(device)
    return workload


def _train(cfg: DictConfig, folder: Path, ranks: Ranks, device: torch.device, progress: Callable[[int], None] | None) -> dict[str, Any]:
    try:
        training = _set_up(cfg, folder, ranks, device)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{folder.name} ran out of memory before its first step; {LESS}") from error
    try:
        training.resume()
        with listening() as requests:
            metrics, reason = _to_the_end(training, requests, progress)
    finally:
        training.close()
    record = _summary(cfg, training, metrics, reason)
    with ranks.together():
        if ranks.first:
            record = records.write_record(folder, record)
            checkpoint.finish(folder)
    return ranks.from_first(record)


def _set_up(cfg: DictConfig, folder: Path, ranks: Ranks, device: torch.device) -> Training:
    with ranks.together():
        set_up(cfg)
        seed_everything(cfg.seed)
        workload = build_workload(cfg, device)
        check_batch_norm(cfg, workload.model, ranks, device)
    model = spread(cfg, workload.model, workload.blocks, ranks, device)
    workload = replace(workload, model=model)
    if cfg.compile:
        for block in workload.blocks or [model]:  # one graph for all blocks, where a whole model would be one graph for each
            block.compile()
    with ranks.together():
        optimizer = build_optimizer(cfg, model)
        if not ranks.first:  # the model is the same everywhere, dropout's masks are not
            seed_everything(derive(cfg.seed, "process", ranks.rank, 0))
        if not cfg.quiet:
            say(regularized_set(model, cfg.task.reg_embedding))
        if warning := never_acts(cfg):
            say(f"warning: {warning}")
        if ranks.first:
            write_bytes_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
        return Training(cfg, folder, workload, optimizer, device, ranks)


def _to_the_end(training: Training, requests: Requests, progress: Callable[[int], None] | None) -> tuple[dict[str, float], str | None]:
    """The final metrics, or why the run failed for a reason of its own."""
    step, ranks = training.step, training.ranks
    with ranks.together():
        deaths = attempts.note_start(training.folder, step) if ranks.first else 0
    deaths = ranks.from_first(deaths)
    try:
        if deaths >= attempts.LIMIT:
            raise TrainingFailed(f"it ended {deaths} times without a word after step {step}: killed, or out of memory")
        metrics = training.train(requests, progress)
        training.record_metrics(metrics)
    except TrainingFailed as failure:
        _note_end(training)
        return {}, str(failure)
    except Exception as error:
        if operation := without_deterministic_form(error):
            _note_end(training)
            raise UserError(
                f"{operation} has no deterministic form on a GPU; say deterministic=false: the same command then goes on, "
                "and an interrupted run ends with other roundings than an uninterrupted one"
            ) from error
        if not _is_out_of_memory(error):
            if ranks.world == 1 or isinstance(error, UserError | Interrupted):  # else another process may have been killed
                _note_end(training)
            raise
        if deaths + 1 < attempts.LIMIT or ranks.world > 1:  # the other processes have no word of it: the next start counts it
            where = f"{training.run_id} ran out of memory at step {training.step}, in attempt {deaths + 1}"
            raise OutOfMemory(f"{where}; {LESS}") from error
        _note_end(training)
        return {}, f"out of memory at step {training.step}, in {deaths + 1} attempts"
    _note_end(training)
    return metrics, None


def _note_end(training: Training) -> None:
    if training.ranks.first:
        attempts.note_end(training.folder, training.step)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _summary(cfg: DictConfig, training: Training, metrics: dict[str, float], reason: str | None) -> dict[str, Any]:
    metric = training.workload.metric
    return {
        "run_id": training.run_id,
        "status": "finished" if reason is None else "failed",
        "reason": reason,
        "metrics": metrics,
        "metric": {"name": metric.name, "unit": metric.unit, "better": metric.better},
        "steps": training.step,
        "seed": cfg.seed,
        "seconds": training.seconds,
        "steps_per_second": training.step / training.stepping_seconds if training.stepping_seconds else None,
        **rates(training.workload.work, training.step, training.stepping_seconds, training.peak, training.ranks.world),
        "without_bound": without_bound(training.workload.model, training.optimizer),
        "state_sha256": checkpoint.digest(*training.whole_state()),
        "config": records.identity(cfg),
        "config_hash": records.config_hash(cfg),
        "git_commit": git_commit(),
        "versions": versions(),
        "hardware": hardware(training.device, training.ranks.world),
    }
