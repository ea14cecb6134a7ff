"""Build an optimizer from `configs/regularizer/*.yaml`.

A new optimizer needs a line in BUILDERS, a line in KEYS and a YAML file.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cpr import CPR, AdamCPR, regularized_groups
from cpr.baselines import AMOS, AdamAdaDecay, AdamAWD, DecayScheduledAdamW, RescaledAdam
from tasks.engine.errors import UserError

# The engine reports this itself (`never_acts`, `without_bound` in the record), and a stopped run
# resumes later.
warnings.filterwarnings("ignore", message=".* no matrix got a bound: nothing was regularized")
CPR_ARGUMENTS = (
    "kappa_init_method",
    "reg_function",
    "kappa_update",
    "reg_ema_decay",
    "reg_by_lr",
    "evaluate_at",
    "adaptive",
    "safeguard",
)
CPR_KEYS = (*CPR_ARGUMENTS, "reg_step_size")
# What each bound reads in addition to CPR_KEYS.
BOUND_KEYS = {
    "warm_start": ("warm_start",),
    "uniform": ("kappa_init_param",),
    "dependent": ("kappa_init_param",),
    "inflection_point": (),
}


def warm_start_steps(value: str | int | float, warmup_steps: int) -> int:
    """Return the steps of `warm_start`: a number, or a multiple of the lr warm-up like "2x".

    Raises:
        UserError: anything else, or a negative number.
    """
    multiple = isinstance(value, str) and value.endswith("x")
    try:
        steps = float(value[:-1]) * warmup_steps if multiple else float(value)  # type: ignore[index]
    except (ValueError, TypeError):
        steps = math.nan
    if multiple and warmup_steps == 0:
        raise UserError(
            f"regularizer.warm_start={value} is a multiple of the lr warm-up, which this task does not have; give a number of steps"
        )
    if not (0 <= steps < math.inf and (multiple or steps == int(steps))):
        raise UserError(
            f"regularizer.warm_start={value!r} must be a whole number of steps >= 0, or a multiple of the lr warm-up such as 2x"
        )
    return round(steps)


def cpr_arguments(cfg: Any) -> dict[str, Any]:
    """Return the arguments of AdamCPR and CPR. WS's steps and IP's interval follow from the lr warm-up."""
    regularizer, warmup = cfg.regularizer, cfg.task.schedule.warmup_steps
    arguments = {name: regularizer[name] for name in CPR_ARGUMENTS if name in regularizer}
    method = regularizer.kappa_init_method
    if method == "warm_start":
        arguments["kappa_init_param"] = warm_start_steps(regularizer.warm_start, warmup)
    elif method in ("uniform", "dependent"):
        arguments["kappa_init_param"] = regularizer.kappa_init_param
    # Paper, section 4.3: IP samples every 10 % of the lr warm-up.
    interval = regularizer.reg_step_size
    arguments["reg_step_size"] = max(1, round(0.1 * warmup)) if interval is None else interval
    return arguments


def never_acts(cfg: Any) -> str | None:
    """Return a warning if the bound is set too late to act in this run, else None."""
    regularizer = cfg.regularizer
    if "kappa_init_method" not in regularizer:
        return None
    arguments = cpr_arguments(cfg)
    first = {"warm_start": arguments.get("kappa_init_param"), "inflection_point": 4 * arguments["reg_step_size"]}.get(
        regularizer.kappa_init_method
    )
    if first is None or first < cfg.num_steps - 1:
        return None
    return f"CPR will never act: the earliest step at which a bound can be set is {first}, and training ends at {cfg.num_steps}"


def _check_keys(regularizer: Any) -> None:
    """Raise UserError for a key that the optimizer would not read, since a setting without effect is a mistake.

    A key of another bound may be null. A grid uses this to take out a key that the regularizer's
    file has.
    """
    known = {"name", "optimizer", "lr", *KEYS[regularizer.optimizer]}
    taken_out: set[str] = set()
    if "kappa_init_method" in KEYS[regularizer.optimizer]:
        known |= set(BOUND_KEYS.get(regularizer.kappa_init_method, ()))
        taken_out = {
            key for keys in BOUND_KEYS.values() for key in keys if key in regularizer and regularizer[key] is None
        }
    if unknown := sorted(set(regularizer) - known - taken_out):
        raise UserError(
            f"regularizer.{unknown[0]} is not read by {regularizer.name}; it reads {', '.join(sorted(known - {'name', 'optimizer'}))}"
        )


def _decay(cfg: Any, key: str = "weight_decay") -> float:
    decay = cfg.regularizer[key]
    if isinstance(decay, str) or not decay >= 0:
        raise UserError(f"regularizer.{key}={decay} must be >= 0")
    return decay * cfg.task.weight_decay_multiplier


def _groups(cfg: Any, model: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    groups = regularized_groups(model, reg_embedding=cfg.task.reg_embedding)
    # Some tasks also decay biases and normalization weights.
    everywhere = cfg.task.get("decay_all", False)
    return [group | {"weight_decay": weight_decay if group["regularize"] or everywhere else 0.0} for group in groups]


def _adam(cfg: Any) -> dict[str, Any]:
    return {"lr": cfg.lr, "betas": tuple(cfg.task.betas), "eps": cfg.task.eps}


def _baseline(cfg: Any) -> dict[str, Any]:
    return _adam(cfg) | {"reg_embedding": cfg.task.reg_embedding}


def _awd(cfg: Any, model: nn.Module) -> Optimizer:
    regularizer = cfg.regularizer
    # A coupled decay is a share of each gradient for any number of steps. A decoupled one adds up
    # over the steps.
    decay = regularizer.weight_decay if regularizer.coupled else _decay(cfg)
    return AdamAWD(model, weight_decay=decay, coupled=regularizer.coupled, scope=regularizer.scope, **_baseline(cfg))


def _amos(cfg: Any, model: nn.Module) -> Optimizer:
    # This decay is not multiplied by lr, but adds up over the steps like a decoupled decay. The
    # multiplier compensates for their number here too.
    options = {
        "extra_l2": _decay(cfg, "extra_l2"),
        "legacy_sign": cfg.regularizer.legacy_sign,
        "beta": cfg.regularizer.beta,
    }
    return AMOS(model, lr=cfg.lr, reg_embedding=cfg.task.reg_embedding, **options)


def _adamw_schedule(cfg: Any, model: nn.Module) -> Optimizer:
    options = {"weight_decay": _decay(cfg), "final_factor": cfg.regularizer.final_factor}
    return DecayScheduledAdamW(model, total_steps=cfg.num_steps, **options, **_baseline(cfg))


def _sgd(cfg: Any, groups: list[dict[str, Any]]) -> Optimizer:
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.regularizer.momentum, nesterov=cfg.regularizer.nesterov)


BUILDERS: dict[str, Callable[[Any, nn.Module], Optimizer]] = {
    "adamw": lambda cfg, model: torch.optim.AdamW(_groups(cfg, model, _decay(cfg)), **_adam(cfg)),
    "adamcpr": lambda cfg, model: AdamCPR(_groups(cfg, model), **_adam(cfg), **cpr_arguments(cfg)),
    "sgd": lambda cfg, model: _sgd(cfg, _groups(cfg, model, _decay(cfg))),
    "sgd_cpr": lambda cfg, model: CPR(_sgd(cfg, _groups(cfg, model)), **cpr_arguments(cfg)),
    "rescaling": lambda cfg, model: RescaledAdam(
        model, factor=cfg.regularizer.factor, include_norm=cfg.regularizer.include_norm, **_baseline(cfg)
    ),
    "adadecay": lambda cfg, model: AdamAdaDecay(
        model, weight_decay=_decay(cfg), alpha=cfg.regularizer.alpha, **_baseline(cfg)
    ),
    "awd": _awd,
    "amos": _amos,
    "adamw_schedule": _adamw_schedule,
}
KEYS: dict[str, tuple[str, ...]] = {
    "adamw": ("weight_decay",),
    "adamcpr": CPR_KEYS,
    "sgd": ("weight_decay", "momentum", "nesterov"),
    "sgd_cpr": ("momentum", "nesterov", *CPR_KEYS),
    "rescaling": ("factor", "include_norm"),
    "adadecay": ("weight_decay", "alpha"),
    "awd": ("weight_decay", "coupled", "scope"),
    "amos": ("extra_l2", "legacy_sign", "beta"),
    "adamw_schedule": ("weight_decay", "final_factor"),
}

# The step of these baselines does not work on sharded parameters.
WHOLE_MATRICES = ("rescaling", "awd", "amos")


def build_optimizer(cfg: Any, model: nn.Module) -> Optimizer:
    """Return the optimizer of `cfg.regularizer` for the model's trainable parameters.

    Raises:
        UserError: the optimizer is unknown, or a value is out of its range.
    """
    if cfg.regularizer.optimizer not in BUILDERS:
        raise UserError(
            f"regularizer.optimizer={cfg.regularizer.optimizer!r} is unknown; choose one of {', '.join(BUILDERS)}"
        )
    _check_keys(cfg.regularizer)
    if cfg.parallel == "fsdp" and cfg.nodes * cfg.gpus > 1 and cfg.regularizer.optimizer in WHOLE_MATRICES:
        raise UserError(f"parallel=fsdp: {cfg.regularizer.name} needs whole matrices; use parallel=ddp")
    try:
        return BUILDERS[cfg.regularizer.optimizer](cfg, model)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
