"""The settings of a parameter group: ranges, allowed changes during training and refused parameters."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cpr.bounds import METHODS
from cpr.measures import MEASURES

EVALUATE_AT = ("before", "after")
ADAPTIVE = (False, "transition", "latched")
SMALLEST = 2.0**-126  # of float32's normal numbers
KERNELS = ("auto", "eager", "cpu", "triton")
# A bound is made with these settings. Another value would change the unit of κ, or never be read.
FIXED = ("reg_function", "kappa_init_method")
WATCHED = (
    *(
        "regularize",
        "reg_function",
        "kappa_init_method",
        "kappa_init_param",
        "kappa_update",
        "reg_step_size",
        "reg_ema_decay",
    ),
    *(
        "reg_by_lr",
        "evaluate_at",
        "adaptive",
        "safeguard",
        "kernel",
        "betas",
        "eps",
        "amsgrad",
        "maximize",
        "weight_decay",
    ),
)


def checked_defaults(**settings: Any) -> dict[str, Any]:
    """Return CPR's entries of a parameter group, checked.

    Raises:
        ValueError: a setting out of its range. The message names the argument, its value and its range.
    """
    group = dict(settings)
    if group["kappa_init_method"] == "warm_start" and group["kappa_init_param"] is None:
        group["kappa_init_param"] = 1000
    check_group(group)
    return group


def groups_of(params: Any, weight_decay: float | None) -> list[dict[str, Any]]:
    """Return parameter groups from groups, parameters or named parameters.

    Args:
        params: groups, parameters, or named parameters.
        weight_decay: for the groups that have neither `weight_decay` nor `regularize`. None adds none.

    Raises:
        ValueError: a weight decay that is not a number >= 0.
    """
    if weight_decay is not None:
        check_number("weight_decay", weight_decay, lambda decay: 0 <= decay < math.inf, "a number >= 0")
    if isinstance(params, Tensor):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors or dicts, but got a tensor"
        )
    given: list[Any] = list(params)
    groups: list[dict[str, Any]] = [{"params": given}] if given and not isinstance(given[0], dict) else given
    if weight_decay is None:
        return groups
    return [
        group if {"regularize", "weight_decay"} & set(group) else group | {"weight_decay": weight_decay}
        for group in groups
    ]


def check_group(group: dict[str, Any]) -> None:
    """Raise ValueError for a setting out of its range. Settings that a group lacks are not checked."""
    for name, choices in (
        ("kappa_init_method", METHODS),
        ("reg_function", tuple(MEASURES)),
        ("evaluate_at", EVALUATE_AT),
        ("adaptive", ADAPTIVE),
        ("kernel", KERNELS),
    ):
        if name in group and not any(
            group[name] is choice or (isinstance(choice, str) and group[name] == choice) for choice in choices
        ):
            raise ValueError(f"{name}={group[name]!r} is unknown; choose one of {', '.join(map(str, choices))}")
    for name in ("regularize", "reg_by_lr", "safeguard", "amsgrad", "maximize"):
        if name in group and not isinstance(group[name], bool):
            raise ValueError(f"{name}={group[name]!r} must be True or False")
    method, parameter = group["kappa_init_method"], group["kappa_init_param"]
    if parameter is not None and not _is_number(parameter):
        raise ValueError(f"kappa_init_param={parameter!r} must be a number")
    if method in ("uniform", "dependent") and not (parameter is not None and SMALLEST <= parameter < math.inf):
        raise ValueError(
            f"kappa_init_param={parameter} must be a number > 0 (in float32) with kappa_init_method={method!r}"
        )
    if method == "warm_start" and not (parameter is not None and _is_whole(parameter, least=0)):
        raise ValueError(
            f"kappa_init_param={parameter} must be a whole number of steps >= 0 with kappa_init_method='warm_start'"
        )
    check_number(
        "kappa_update", group["kappa_update"], lambda mu: 0 < mu < math.inf, "a number > 0 (with 0, λ would never move)"
    )
    if not _is_whole(group["reg_step_size"], least=1):
        raise ValueError(f"reg_step_size={group['reg_step_size']!r} must be a whole number of steps >= 1")
    check_number("reg_ema_decay", group["reg_ema_decay"], lambda decay: 0 <= decay < 1, "a number in [0, 1)")


def check_adam(group: dict[str, Any]) -> None:
    """Raise ValueError for one of Adam's settings out of its range."""
    check_lr(group["lr"])
    check_number("eps", group["eps"], lambda eps: 0 <= eps < math.inf, "a number >= 0")
    betas = group["betas"]
    if not (
        isinstance(betas, Sequence) and len(betas) == 2 and all(_is_number(beta) and 0 <= beta < 1 for beta in betas)
    ):
        raise ValueError(f"betas={betas!r} must be two numbers, both in [0, 1)")


def check_lr(lr: Any) -> None:
    """Raise ValueError unless lr is a finite number >= 0, or a tensor of one such number.

    A tensor on a GPU is not read.
    """
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr is a tensor of shape {tuple(lr.shape)}; it must have one element")
        if lr.device.type != "cpu":
            return
        lr = lr.item()
    check_number("lr", lr, lambda rate: 0 <= rate < math.inf, "a number >= 0")


def check_number(name: str, value: Any, fits: Callable[[Any], bool], wanted: str) -> None:
    """Raise ValueError unless the value is a number that fits.

    The message names the setting, its value and what is wanted.
    """
    if not (_is_number(value) and fits(value)):
        raise ValueError(f"{name}={value!r} must be {wanted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return _is_number(value) and least <= value < math.inf and value == int(value)


def prepare_group(group: dict[str, Any], given: Iterable[str]) -> None:
    """Set `regularize` and refuse what CPR cannot do.

    A group may have a weight decay instead of `regularize`, as torch users build them. It is then
    regularized if the decay is not zero. The decay itself becomes zero, since CPR replaces it.

    Args:
        group: the group, complete.
        given: the keys that its author set.

    Raises:
        ValueError: neither `regularize` nor `weight_decay` is given, weight decay beside `regularize`,
            complex parameters, parameters that a library has flattened into shards, std of a single
            number, or a setting out of its range.
    """
    require_said(given)
    if "weight_decay" in group:
        if "regularize" in given and group["weight_decay"] != 0:
            raise _decay_beside(group)
        group.setdefault("regularize", group["weight_decay"] != 0)
        group["weight_decay"] = 0.0
    check_group(group)
    if group["regularize"]:
        for parameter in group["params"]:
            _check_parameter(parameter, group)


@contextlib.contextmanager
def taken_back(optimizer: Optimizer) -> Iterator[None]:
    """Remove the newest parameter group again if it is refused."""
    try:
        yield
    except ValueError:
        optimizer.param_groups.pop()
        raise


def require_said(given: Iterable[str]) -> None:
    """Raise ValueError if the keys of a parameter group do not say whether it is regularized."""
    if not {"regularize", "weight_decay"} & set(given):
        raise ValueError(
            "this parameter group says neither regularize=True nor regularize=False, so no parameter is regularized. "
            "Add one of them to the group, or pass the module itself as params"
        )


def _check_parameter(parameter: Tensor, group: dict[str, Any]) -> None:
    if parameter.is_complex():
        raise ValueError("CPR regularizes real parameters only. Put complex ones in a group with regularize=False")
    if getattr(parameter, "_fsdp_flattened", False) or hasattr(parameter, "ds_id"):
        raise ValueError(
            f"a regularized parameter of shape {tuple(parameter.shape)} is a flat shard of FullyShardedDataParallel "
            "(FSDP1) or DeepSpeed, which hides the size of its matrix. "
            "Shard with torch.distributed.fsdp.fully_shard (FSDP2)"
        )
    if group["reg_function"] == "std" and not is_lazy(parameter) and parameter.numel() < 2:
        raise ValueError("reg_function='std' needs matrices of at least two elements")


def require_regularized(groups: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError if no group is regularized, since CPR would then have no effect.

    An empty group counts, since ZeroRedundancyOptimizer may leave a rank without matrices.
    """
    if not any(group["regularize"] for group in groups):
        raise ValueError(
            "no parameter is regularized. Pass the model itself, or groups with regularize=True "
            "(cpr.regularized_groups(model) makes them). "
            "A group made for weight decay counts if its weight_decay is not 0"
        )


def _decay_beside(group: dict[str, Any]) -> ValueError:
    return ValueError(
        f"weight_decay={group['weight_decay']} on a group with regularize={group['regularize']}: CPR replaces weight "
        "decay, so set it to 0 (torch's AdamW and Muon decay by default)"
    )


class Watch:
    """Detect settings changed since the last step, check them, and refuse what cannot change."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[dict[str, Any], tuple[Any, ...]]] = {}

    def changed(self, number: int, group: dict[str, Any], optimizer: Optimizer) -> bool:
        """Return whether group `number` has other settings than at the last call.

        Raises:
            ValueError: a setting out of its range, weight decay, or another measure or bound while
                bounds are in force.
        """
        now = tuple(map(group.get, WATCHED))
        known, before = self._known.get(number, (None, ()))
        before = before if known is group else ()
        if before == now:
            return False
        self._check(dict(zip(WATCHED, before or now, strict=True)), group, optimizer)
        self._known[number] = group, now
        return True

    def _check(self, before: dict[str, Any], group: dict[str, Any], optimizer: Optimizer) -> None:
        check_group(group)
        if "eps" in group and "kernel" in group:
            check_adam(group)
        if group.get("weight_decay", 0) != 0:
            raise _decay_beside(group)
        fixed = (*FIXED, "kappa_init_param") if group["kappa_init_method"] in ("uniform", "dependent") else FIXED
        changed = [name for name in fixed if before[name] != group[name]]
        if changed and any("kappa_set" in optimizer.state.get(p, {}) for p in group["params"]):
            name = changed[0]
            raise ValueError(
                f"{name} was changed from {before[name]!r} to {group[name]!r} while bounds are in force "
                f"that depend on it. Make a new optimizer, or change state[p]['kappa'] of each parameter"
            )
        for parameter in group["params"] if group["regularize"] else ():
            _check_parameter(parameter, group)
