"""The configuration of a run, typed: the keys that every run and every task has.

`tasks/<name>/config.py` declares the keys of one task, and tasks/regularizers/ those of the regularizers.
"""

import importlib
import re
from typing import Annotated, Any, ClassVar, Generic, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field, PrivateAttr
from typing_extensions import TypeVar

from tasks.engine.cpr_keys import CPR, warm_start_steps
from tasks.engine.errors import UserError
from tasks.engine.launchers import Launcher, read_launcher
from tasks.engine.records import check_names
from tasks.engine.regularizer import Regularizer, read_regularizer
from tasks.engine.resources import Resources
from tasks.engine.section import (
    BelowOne,
    NonNegative,
    NonNegativeInt,
    Pair,
    Positive,
    PositiveInt,
    Section,
    Seed,
    Share,
    Threads,
    Workers,
    read,
)


class Schedule(Section):
    """The learning rate over a run (`schedule.lr_factor`)."""

    warmup_steps: NonNegativeInt
    decay: Literal["cosine", "polynomial", "constant"]
    final_factor: Share = Field(description="of the learning rate at the end")
    power: NonNegative = Field(default=1.0, description="of the polynomial decay only")
    start_factor: Share | None = Field(
        default=None, description="of the learning rate at step 0, where the warm-up begins"
    )
    warmup_prefix: bool = Field(default=True, description="timm's name. false: the decay counts from step 0")


class Data(Section):
    """What every task says about its data."""

    description: str = Field(description="for people, and not part of the run's id")


class Task(Section):
    """The keys that the engine reads of every task."""

    one_process: ClassVar[bool] = False  # whether no run of the task can have several
    name: str = Field(description="the folder in tasks/")
    data: Data
    batch_size: PositiveInt = Field(description="examples of an update, over all processes")
    num_steps: PositiveInt
    lr: NonNegative
    betas: Pair[BelowOne] = Field(description="of Adam's moments")
    eps: NonNegative
    weight_decay_multiplier: NonNegative = Field(description="what a regularizer's weight decay is multiplied by")
    reg_embedding: bool = Field(description="whether embeddings are regularized")
    decay_all: bool = Field(default=False, description="whether biases and normalization weights decay too")
    grad_clip: Positive | None = Field(description="the largest norm of the gradient")
    precision: Literal["fp32", "tf32", "bf16"]
    schedule: Schedule
    log_every_steps: PositiveInt
    eval_every_steps: PositiveInt | None = Field(description="null: the last step only")
    parallel: Literal["ddp", "fsdp"] | None = Field(default=None, description="the default of the top-level key")


class SmallModel(Section):
    """What determines the weights of a small model that a task trains once, before its runs (`kept.py`)."""

    batch_size: PositiveInt
    steps: PositiveInt
    lr: NonNegative
    weight_decay: NonNegative
    warmup_steps: NonNegativeInt
    seed: Seed = Field(description="not the run's: every run starts from the same model")


class Logging(Section):
    name: Literal["none", "wandb"]
    project: str | None = None
    mode: Literal["offline", "online", "disabled"] | None = None
    artefact: str | None = Field(default=None, description="groups the runs of a sweep. null: grouped by task")
    label: str | None = Field(default=None, description="the settings in the run's name. null: the lr")


def checked_device(value: Any) -> Any:
    """Return the value. Raise ValueError if it is not the name of a device."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(value)):
        raise ValueError("is unknown; use cpu, cuda or cuda:N")
    return value


T = TypeVar("T", bound=Task, default=Task, covariant=True)


class Config(Section, Generic[T]):
    """A run's configuration. `Config[Gpt2Task]` has the keys of that task; configs/config.yaml explains each key."""

    task: T
    regularizer: Regularizer
    launcher: Launcher
    logging: Logging
    scale: str
    seed: Seed
    lr: NonNegative
    num_steps: PositiveInt
    runs_dir: str = Field(min_length=1)
    data_dir: str = Field(min_length=1)
    checkpoint_every_steps: PositiveInt | None
    checkpoint_every_minutes: NonNegative | None
    deterministic: bool
    compile: bool
    device: Annotated[str, BeforeValidator(checked_device)]
    threads: Threads | None
    nodes: PositiveInt
    gpus: PositiveInt
    micro_batch: PositiveInt | None
    gradient_checkpointing: bool
    resources: Resources | None = None
    loader_workers: Workers
    parallel: Literal["ddp", "fsdp"]
    quiet: bool
    strict: bool
    _source: DictConfig = PrivateAttr()

    @property
    def source(self) -> DictConfig:
        """The configuration as Hydra composed it, from which `records.py` makes the run's id."""
        return self._source


def read_config(cfg: DictConfig) -> Config[Any]:
    """Return the configuration as types, checked.

    Raises:
        UserError: a key is unknown or missing, or a value has a wrong type or is out of its range.
    """
    check_names(cfg)
    content: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    sections = {
        "task": read(task_model(content["task"]["name"]), content["task"], "task"),
        "regularizer": read_regularizer(content["regularizer"]),
        "launcher": read_launcher(content.get("launcher")),
    }
    config: Config = read(Config, content | sections)
    config._source = cfg
    _check_together(config)
    return config


def task_model(name: str) -> type[Task]:
    """Return the keys of a task, `TASK` of tasks/<name>/config.py. Raise UserError if there is no such task."""
    module = f"tasks.{name}.config"
    try:
        task: type[Task] = importlib.import_module(module).TASK
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"task={name} is unknown: there is no {module.replace('.', '/')}.py") from error
    except AttributeError as error:
        raise UserError(f"task={name} is unknown: {module.replace('.', '/')}.py declares no TASK") from error
    return task


def _check_together(cfg: Config) -> None:
    """Raise UserError for values that do not fit each other."""
    world, batch_size, micro_batch = cfg.nodes * cfg.gpus, cfg.task.batch_size, cfg.micro_batch
    if world > batch_size:
        raise UserError(
            f"nodes={cfg.nodes} x gpus={cfg.gpus} are more than the {batch_size} examples of a batch (task.batch_size)"
        )
    # A process whose whole share is smaller takes it at once.
    if micro_batch is not None and world * micro_batch < batch_size and batch_size % (world * micro_batch):
        raise UserError(
            f"micro_batch={micro_batch} on {world} process(es) does not divide task.batch_size={batch_size}; choose one that does, or null"
        )
    if isinstance(cfg.regularizer, CPR) and cfg.regularizer.warm_start is not None:
        warm_start_steps(cfg.regularizer.warm_start, cfg.task.schedule.warmup_steps)
