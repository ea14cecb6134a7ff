"""The keys of CPR and of its bounds, which every optimizer with CPR reads."""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from tasks.engine.errors import UserError
from tasks.engine.regularizer import Regularizer, not_read
from tasks.engine.section import BelowOne, Positive, PositiveInt, shown_as

if TYPE_CHECKING:
    from tasks.engine.config import Config

STEPS = "a whole number of steps >= 0, or a multiple of the lr warm-up such as 2x"
BOUND = "a number > 0"
PASSED_ON = (
    "kappa_init_method",
    "reg_function",
    "kappa_update",
    "reg_ema_decay",
    "reg_by_lr",
    "evaluate_at",
    "adaptive",
    "safeguard",
)


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
                raise ValueError(not_read(key, getattr(self, key), self.name, set(type(self).model_fields) - {key}))
        return self

    def arguments(self, cfg: "Config") -> dict[str, Any]:
        """Return the arguments of `cpr.AdamCPR` and `cpr.CPR`. WS's steps and IP's interval follow from the lr warm-up."""
        warmup = cfg.task.schedule.warmup_steps
        arguments = {name: getattr(self, name) for name in PASSED_ON}
        if self.warm_start is not None:
            arguments["kappa_init_param"] = warm_start_steps(self.warm_start, warmup)
        elif self.kappa_init_param is not None:
            arguments["kappa_init_param"] = self.kappa_init_param
        # Paper, section 4.3: IP samples every 10 % of the lr warm-up.
        interval = self.reg_step_size
        arguments["reg_step_size"] = max(1, round(0.1 * warmup)) if interval is None else interval
        return arguments
