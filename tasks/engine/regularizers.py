"""The keys of configs/regularizer/*.yaml: what each optimizer reads, with types and ranges.

A new optimizer needs a model here, a line in OPTIMIZERS, a case in `optimizers.py` and a YAML file.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from tasks.engine.errors import UserError
from tasks.engine.section import BelowOne, NonNegative, Positive, PositiveInt, Section, read, shown_as

STEPS = "a whole number of steps >= 0, or a multiple of the lr warm-up such as 2x"
BOUND = "a number > 0"


def warm_start_steps(value: str | int | float, warmup_steps: int) -> int:
    """Return the steps of `warm_start`: a number, or a multiple of the lr warm-up like "2x".

    Raises:
        UserError: anything else, a negative number, or a multiple of no warm-up.
    """
    if isinstance(value, str) and value.endswith("x") and warmup_steps == 0:
        raise UserError(
            f"regularizer.warm_start={value} is a multiple of the lr warm-up, which this task does not have; give a number of steps"
        )
    steps = _steps(value, warmup_steps)
    if steps is None:
        raise UserError(f"regularizer.warm_start={shown_as(value)} must be {STEPS}")
    return steps


def _steps(value: Any, warmup_steps: int) -> int | None:
    multiple = isinstance(value, str) and value.endswith("x")
    if not multiple and (isinstance(value, bool) or not isinstance(value, int | float)):
        return None
    try:
        steps = float(value[:-1]) * warmup_steps if multiple else float(value)
    except ValueError:
        return None
    return round(steps) if 0 <= steps < math.inf and (multiple or steps == int(steps)) else None


def _is_warm_start(value: Any) -> Any:
    if isinstance(value, str) and value.isdecimal():
        raise ValueError(
            f"is text; write {value} without quotes for steps, or {value}x for a multiple of the lr warm-up"
        )
    if value is not None and _steps(value, 1) is None:
        raise ValueError(f"must be {STEPS}")
    return value


def _is_bound(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise ValueError(f"must be {BOUND}")
    return value


def _is_adaptive(value: Any) -> Any:
    if value is not False and not isinstance(value, str):  # 0 equals False, but makes another run id
        raise ValueError("is unknown; choose one of false, transition, latched")
    return value


class Regularizer(Section):
    """What every regularizer has: the beginning of its run ids, its optimizer, and a learning rate if it has its own."""

    name: str
    optimizer: str
    lr: NonNegative | None = None


class AdamW(Regularizer):
    weight_decay: NonNegative


class AdamWSchedule(Regularizer):
    weight_decay: NonNegative
    final_factor: NonNegative


class SGD(Regularizer):
    momentum: NonNegative
    nesterov: bool
    weight_decay: NonNegative


class Rescaling(Regularizer):
    factor: Positive
    include_norm: bool


class AdaDecay(Regularizer):
    weight_decay: NonNegative
    alpha: NonNegative


class AWD(Regularizer):
    weight_decay: NonNegative
    coupled: bool
    scope: Literal["global", "tensor"]


class AMOS(Regularizer):
    beta: BelowOne
    extra_l2: NonNegative
    legacy_sign: bool


# What each bound reads in addition to the other keys of CPR, and the form of these keys. null is for the other bounds.
BOUND_KEYS = {"uniform": "kappa_init_param", "dependent": "kappa_init_param", "warm_start": "warm_start"}
FORMS = {"kappa_init_param": BOUND, "warm_start": STEPS}


class CPR(Regularizer):
    """CPR's keys, and what every optimizer with CPR reads. Defaults are those of `cpr.CPR`."""

    kappa_init_method: Literal["uniform", "dependent", "warm_start", "inflection_point"]
    kappa_init_param: Annotated[int | float | None, BeforeValidator(_is_bound)] = None
    warm_start: Annotated[int | float | str | None, BeforeValidator(_is_warm_start)] = None
    reg_function: Literal["l2", "l1", "huber", "std"] = "l2"
    kappa_update: Positive = 1.0
    reg_step_size: PositiveInt | None
    reg_ema_decay: BelowOne = 0.0
    reg_by_lr: bool = False
    evaluate_at: Literal["before", "after"] = "before"
    adaptive: Annotated[Literal[False, "transition", "latched"], BeforeValidator(_is_adaptive)] = False
    safeguard: bool = True

    @model_validator(mode="after")
    def _bound_has_its_key(self) -> "CPR":
        """Refuse the key of another bound, since a setting without effect is a mistake. A grid takes it out with null."""
        wanted = BOUND_KEYS.get(self.kappa_init_method)
        for key in sorted(set(BOUND_KEYS.values())):
            if key == wanted and getattr(self, key) is None:
                raise ValueError(f"{key} is missing; kappa_init_method={self.kappa_init_method} needs {FORMS[key]}")
            if key != wanted and getattr(self, key) is not None:
                raise ValueError(_not_read(key, getattr(self, key), self.name, set(type(self).model_fields) - {key}))
        return self


class AdamCPR(CPR):
    pass


class SGDWithCPR(CPR):
    momentum: NonNegative
    nesterov: bool


OPTIMIZERS: dict[str, type[Regularizer]] = {
    "adamw": AdamW,
    "adamcpr": AdamCPR,
    "sgd": SGD,
    "sgd_cpr": SGDWithCPR,
    "rescaling": Rescaling,
    "adadecay": AdaDecay,
    "awd": AWD,
    "amos": AMOS,
    "adamw_schedule": AdamWSchedule,
}


def read_regularizer(content: dict[str, Any]) -> Regularizer:
    """Return `cfg.regularizer`.

    Raises:
        UserError: the optimizer is unknown or does not read a key, or a value is out of its range.
    """
    model = OPTIMIZERS.get(str(content.get("optimizer")))
    if model is None:
        optimizer = shown_as(content.get("optimizer"))
        raise UserError(f"regularizer.optimizer={optimizer} is unknown; choose one of {', '.join(OPTIMIZERS)}")
    known = set(model.model_fields)
    if unknown := sorted(set(content) - known):
        raise UserError(f"regularizer.{_not_read(unknown[0], content[unknown[0]], str(content.get('name')), known)}")
    return read(model, content, "regularizer")


def _not_read(key: str, value: Any, name: str, known: set[str]) -> str:
    keys = ", ".join(sorted(known - {"name", "optimizer"}))
    return f"{key}={shown_as(value)} is not read by {name}; it reads {keys}"
