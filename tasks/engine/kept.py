"""Small models that a task trains once, before its runs, with the engine's loop.

They are kept in the data folder under the hash of their configuration.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from tasks.engine import checkpoint
from tasks.engine.config import Config, Logging, Schedule, SmallModel, Task
from tasks.engine.errors import Diverged, UserError
from tasks.engine.files import disk_full_is_said, one_at_a_time, only_process, write_atomically
from tasks.engine.parallel import Ranks
from tasks.engine.seeding import derive, drawing_from
from tasks.engine.signals import listening
from tasks.engine.terminal import say
from tasks.engine.training import Training
from tasks.engine.workload import Workload

Weights = dict[str, Tensor]


def trained(
    path: Path, small: SmallModel, build: Callable[[], tuple[Workload, Optimizer]], final_factor: float, quiet: bool
) -> Weights:
    """Return the weights in the file `path`, on the CPU, and train them first if necessary.

    One process trains while others wait for it, and the file keeps their configuration too. A whole file is
    read without a lock, since the folder may be read-only. A damaged file is made again. An
    interrupted training resumes from its checkpoint.

    Args:
        path: the file of the weights.
        small: what determines the weights.
        build: makes workload and optimizer, with random numbers of the model's seed.
        final_factor: share of the learning rate that is left at the end of the cosine.
        quiet: show no message and no progress bar.

    Raises:
        UserError: the disk is full.
        Diverged: a loss is not finite.
        Interrupted: a signal asked to stop. A checkpoint has been written.
    """
    if path.exists() and (content := checkpoint.read(path)) is not None:
        return content["model"]
    folder = path.with_suffix("")  # of the training's logs and checkpoints
    with disk_full_is_said(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path.with_suffix(".lock")):
            content = checkpoint.read(path) if path.exists() else None
            if content is None:
                # left by a process that was killed while it wrote
                for left_over in path.parent.glob(f".{path.name}.*.tmp"):
                    left_over.unlink()
                if not quiet:
                    say(f"training the small model that runs start from: {small.steps} steps, once; kept as {path}")
                content = {"config": small.model_dump(), "model": _train(folder, small, build, final_factor, quiet)}
                write_atomically(path, lambda file: torch.save(content, file))
                shutil.rmtree(folder)
    return content["model"]


def _train(
    folder: Path, small: SmallModel, build: Callable[[], tuple[Workload, Optimizer]], final_factor: float, quiet: bool
) -> Weights:
    """Train on one CPU thread, which gives the same bits in every process of a machine.

    The caller's global random numbers do not change.
    """
    folder.mkdir(exist_ok=True)
    schedule = Schedule(warmup_steps=small.warmup_steps, decay="cosine", final_factor=final_factor)
    # The keys that the loop reads.
    task = Task.model_construct(
        precision="fp32",
        grad_clip=1.0,
        reg_embedding=False,
        log_every_steps=50,
        eval_every_steps=None,
        schedule=schedule,
    )
    cfg = Config.model_construct(
        task=task,
        seed=small.seed,
        lr=small.lr,
        num_steps=small.steps,
        micro_batch=None,
        parallel="ddp",
        checkpoint_every_steps=None,
        checkpoint_every_minutes=5,
        quiet=quiet,
        logging=Logging(name="none"),
    )
    purpose = derive(small.seed, "small")
    with _one_thread(), drawing_from(purpose), only_process(folder) as lock, listening() as requests:
        workload, optimizer = build()
        training = Training(cfg, folder, lock, workload, optimizer, torch.device("cpu"), Ranks())
        with contextlib.closing(training):
            training.resume()
            try:
                training.train(requests)
            except Diverged as failure:
                raise UserError(f"the small model of task.small diverged: {failure}; its folder is {folder}") from None
    return workload.model.state_dict()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
