"""Build an optimizer from `cfg.regularizer`, the keys of which are in `regularizers.py`."""

import warnings
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cpr import CPR, AdamCPR, regularized_groups
from cpr.baselines import AMOS, AdamAdaDecay, AdamAWD, DecayScheduledAdamW, RescaledAdam
from cpr.bounds import FIRST_DECIDING_SAMPLE
from tasks.engine import regularizers
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.regularizers import warm_start_steps

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
# The step of these baselines does not work on sharded parameters.
WHOLE_MATRICES = (regularizers.Rescaling, regularizers.AWD, regularizers.AMOS)


def build_optimizer(cfg: Config, model: nn.Module) -> Optimizer:
    """Return the optimizer of `cfg.regularizer` for the model's trainable parameters.

    Raises:
        UserError: it can't train sharded parameters, or torch refuses a value.
    """
    if cfg.parallel == "fsdp" and cfg.nodes * cfg.gpus > 1 and isinstance(cfg.regularizer, WHOLE_MATRICES):
        raise UserError(f"parallel=fsdp: {cfg.regularizer.name} needs whole matrices; use parallel=ddp")
    try:
        return _build(cfg, model)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def _build(cfg: Config, model: nn.Module) -> Optimizer:
    match cfg.regularizer:
        case regularizers.AdamW() as chosen:
            return torch.optim.AdamW(_groups(cfg, model, _decay(cfg, chosen.weight_decay)), **_adam(cfg))
        case regularizers.AdamCPR() as chosen:
            return AdamCPR(_groups(cfg, model), **_adam(cfg), **cpr_arguments(cfg, chosen))
        case regularizers.SGD() as chosen:
            return _sgd(cfg, chosen, _groups(cfg, model, _decay(cfg, chosen.weight_decay)))
        case regularizers.SGDWithCPR() as chosen:
            return CPR(_sgd(cfg, chosen, _groups(cfg, model)), **cpr_arguments(cfg, chosen))
        case regularizers.Rescaling() as chosen:
            return RescaledAdam(model, factor=chosen.factor, include_norm=chosen.include_norm, **_baseline(cfg))
        case regularizers.AdaDecay() as chosen:
            decay = _decay(cfg, chosen.weight_decay)
            return AdamAdaDecay(model, weight_decay=decay, alpha=chosen.alpha, **_baseline(cfg))
        case regularizers.AWD() as chosen:
            # A coupled decay is a share of each gradient for any number of steps. A decoupled one
            # adds up over the steps.
            decay = chosen.weight_decay if chosen.coupled else _decay(cfg, chosen.weight_decay)
            return AdamAWD(model, weight_decay=decay, coupled=chosen.coupled, scope=chosen.scope, **_baseline(cfg))
        case regularizers.AMOS() as chosen:
            # This decay is not multiplied by lr, but adds up over the steps like a decoupled decay.
            # The multiplier compensates for their number here too.
            decay, embedding = _decay(cfg, chosen.extra_l2), cfg.task.reg_embedding
            options = {"legacy_sign": chosen.legacy_sign, "reg_embedding": embedding}
            return AMOS(model, cfg.lr, beta=chosen.beta, extra_l2=decay, **options)
        case regularizers.AdamWSchedule() as chosen:
            decay, final = _decay(cfg, chosen.weight_decay), chosen.final_factor
            return DecayScheduledAdamW(model, cfg.num_steps, weight_decay=decay, final_factor=final, **_baseline(cfg))
    raise NotImplementedError(f"{type(cfg.regularizer).__name__} has no case in tasks/engine/optimizers.py")


def _sgd(
    cfg: Config, chosen: regularizers.SGD | regularizers.SGDWithCPR, groups: list[dict[str, Any]]
) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=chosen.momentum, nesterov=chosen.nesterov)


def _decay(cfg: Config, decay: float) -> float:
    return decay * cfg.task.weight_decay_multiplier


def _groups(cfg: Config, model: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    groups = regularized_groups(model, reg_embedding=cfg.task.reg_embedding)
    everywhere = cfg.task.decay_all
    return [group | {"weight_decay": weight_decay if group["regularize"] or everywhere else 0.0} for group in groups]


def _adam(cfg: Config) -> dict[str, Any]:
    return {"lr": cfg.lr, "betas": cfg.task.betas, "eps": cfg.task.eps}


def _baseline(cfg: Config) -> dict[str, Any]:
    return _adam(cfg) | {"reg_embedding": cfg.task.reg_embedding}


def cpr_arguments(cfg: Config, chosen: regularizers.CPR) -> dict[str, Any]:
    """Return the arguments of AdamCPR and CPR. WS's steps and IP's interval follow from the lr warm-up."""
    warmup = cfg.task.schedule.warmup_steps
    arguments = {name: getattr(chosen, name) for name in CPR_ARGUMENTS}
    if chosen.warm_start is not None:
        arguments["kappa_init_param"] = warm_start_steps(chosen.warm_start, warmup)
    elif chosen.kappa_init_param is not None:
        arguments["kappa_init_param"] = chosen.kappa_init_param
    # Paper, section 4.3: IP samples every 10 % of the lr warm-up.
    interval = chosen.reg_step_size
    arguments["reg_step_size"] = max(1, round(0.1 * warmup)) if interval is None else interval
    return arguments


def first_bound(cfg: Config) -> int | None:
    """Return the first step at which Kappa-WS or Kappa-IP may set a bound, None for any other regularizer."""
    if not isinstance(cfg.regularizer, regularizers.CPR):
        return None
    arguments = cpr_arguments(cfg, cfg.regularizer)
    steps = {
        "warm_start": arguments.get("kappa_init_param"),
        "inflection_point": FIRST_DECIDING_SAMPLE * arguments["reg_step_size"],
    }
    return steps.get(cfg.regularizer.kappa_init_method)


def never_acts(cfg: Config) -> str | None:
    """Return a warning if the bound is set too late to act in this run, else None."""
    first = first_bound(cfg)
    if first is None or first < cfg.num_steps - 1:
        return None
    return f"CPR will never act: the earliest step at which a bound can be set is {first}, and training ends at {cfg.num_steps}"
