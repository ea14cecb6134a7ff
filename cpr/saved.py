"""Load states saved by an older version of cpr, by another Adam or by the authors' package."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cpr import bounds
from cpr.distributed import any_rank, local
from cpr.measures import scalar_dtype
from cpr.pack import MOMENTS, Matrices

# State entries of torch's and timm's optimizers that have the shape of their parameter.
ELEMENTWISE = (
    *MOMENTS,
    "exp_inf",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "sum",
    "acc_delta",
    "ax",
    "mu",
    "prev",
    "step_size",
    "z",
)
# The package's κ while it has not found an inflection point, in versions 0.3.0 and 0.3.1.
NEVER_FOUND = (1e3, 1e6)


@contextlib.contextmanager
def loading(optimizer: Optimizer, state_dict: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the hooks around a load_state_dict as torch's does, each once, in torch's order.

    Yield the state that the pre-hooks return, completed. The post-hooks run after everything is loaded.
    """
    state_dict = state_dict.copy()
    for hook in list(optimizer._optimizer_load_state_dict_pre_hooks.values()):
        replaced = hook(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    names = ("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks")
    hooks = {name: getattr(optimizer, name) for name in names}
    try:
        for name in names:
            setattr(optimizer, name, OrderedDict())
        yield completed(optimizer, state_dict)
    finally:
        for name in names:
            setattr(optimizer, name, hooks[name])
    for hook in list(hooks[names[1]].values()):
        hook(optimizer)


def check_class(state_dict: dict[str, Any], names: tuple[str, ...], other: str, this: str) -> None:
    """Raise ValueError for a state of the other optimizer class, whose λ and κ this one would lose."""
    if any(name in entry for entry in state_dict["state"].values() for name in names):
        raise ValueError(f"{other} saved this state, and {this} would lose its bounds. Load it into {other}")


def check_shapes(
    optimizer: Optimizer, state_dict: dict[str, Any], name_of: Callable[[Tensor], str] | None = None
) -> None:
    """Raise ValueError if a saved moment has another shape than its parameter.

    Lists of different lengths pass, because torch itself refuses them.
    """
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        for identifier, parameter in zip(saved["params"], group["params"], strict=False):
            for name, value in state_dict["state"].get(identifier, {}).items():
                if name not in ELEMENTWISE or not isinstance(value, Tensor) or value.ndim == 0:
                    continue
                if value.shape != parameter.shape:
                    whose = name_of(parameter) if name_of else "a parameter"
                    raise ValueError(
                        f"the saved {name} of {whose} has shape {tuple(value.shape)}, and the parameter has "
                        f"{tuple(parameter.shape)}. Load the state into a model of the saved shapes, or remove this "
                        "parameter's entry from the state"
                    )


def check_moments(state_dict: dict[str, Any]) -> None:
    """Raise ValueError if the saved state is not an Adam's."""
    for identifier, entry in state_dict["state"].items():
        lacking = [name for name in ("step", *MOMENTS[:2]) if name not in entry]
        if entry and lacking:
            raise ValueError(
                f"the saved state of parameter {identifier} has no {lacking[0]}. "
                "AdamCPR can only load the state of an Adam"
            )


def only_makes_state(groups: list[dict[str, Any]], everything: list[Matrices]) -> bool:
    """Return whether this first step is one that torch.distributed.checkpoint takes to make state.

    It has lr 0 and zero gradients. Real training may start at lr 0 too, but it has gradients. All
    ranks of sharded parameters give the same answer.
    """
    if not all(float(group["lr"]) == 0 for group in groups):
        return False
    gradients = [local(p.grad) for group in groups for p in group["params"] if p.grad is not None]
    moving = any(bool(gradient.any()) for gradient in gradients)
    return not any_rank(moving, list(dict.fromkeys(m.pack.shards.group for m in everything if m.pack.sharded)))


def restore(optimizer: Optimizer, saved: dict[str, Any], names: Iterable[str]) -> None:
    """Restore the named scalars to their own dtype, after torch's load_state_dict has cast them."""
    identifiers = [i for group in saved["param_groups"] for i in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for identifier, parameter in zip(identifiers, parameters, strict=True):
        for name, value in saved["state"].get(identifier, {}).items():
            if name in names:
                optimizer.state[parameter][name] = torch.as_tensor(value).detach().clone().to(parameter.device)


def completed(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state with missing settings filled in from the optimizer and without weight decay.

    CPR replaces weight decay. Groups that were saved without frozen parameters, as older versions
    did, get them.

    Raises:
        ValueError: another number of groups.
    """
    state_dict = _with_frozen(optimizer, state_dict)
    ours, saved = optimizer.param_groups, state_dict["param_groups"]
    if len(ours) != len(saved):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved)}, not {len(ours)}. "
            "Load it into an optimizer `old` with the saved groups, then copy its moments: "
            "optimizer.state.update(old.state)"
        )
    groups = [
        own | its | ({"weight_decay": 0.0} if "weight_decay" in its else {})
        for own, its in zip(ours, saved, strict=True)
    ]
    return state_dict | {"param_groups": groups}


def _with_frozen(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Number the saved parameters as if they included the frozen ones, which saved groups may lack."""
    ours, saved = optimizer.param_groups, state_dict["param_groups"]
    trained = [[p.requires_grad for p in group["params"]] for group in ours]
    sizes, with_some = [len(group["params"]) for group in saved], [flags for flags in trained if any(flags)]
    if sizes == [len(flags) for flags in trained] or sizes != [sum(flags) for flags in with_some]:
        return state_dict
    unused = iter(range(-1, -1 - sum(map(len, trained)), -1))
    of_saved = iter(saved)
    groups = []
    for group, flags in zip(ours, trained, strict=True):
        its = (
            next(of_saved)
            if any(flags)
            else {key: value for key, value in group.items() if key != "params"} | {"params": []}
        )
        given = iter(its["params"])
        groups.append(its | {"params": [next(given) if flag else next(unused) for flag in flags]})
    return state_dict | {"param_groups": groups}


def is_of_the_package(state_dict: dict[str, Any]) -> bool:
    """Return whether pytorch-cpr saved the state.

    Its λ comes with an update rate for every parameter, and without our flag of κ.
    """
    return any("kappa_update" in entry for entry in state_dict["state"].values())


def from_the_package(state_dict: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Convert the package's state to ours.

    The moments, the step and λ stay as they are. κ, a sum over the elements there (except for std), is
    divided by their number. A bound that the package marks as not set becomes a constraint that has
    yet to start. Warm start goes on exactly. The inflection point is looked for anew, since the
    package samples another quantity.

    Args:
        state_dict: the saved state.
        groups: the optimizer's, with the saved parameters in the saved order.

    Raises:
        ValueError: a moment has another shape than its parameter.
    """
    state = {}
    for saved, group in zip(state_dict["param_groups"], groups, strict=True):
        for identifier, parameter in zip(saved["params"], group["params"], strict=False):  # torch refuses other lengths
            if identifier in state_dict["state"]:
                state[identifier] = _converted(state_dict["state"][identifier], saved, parameter)
    return state_dict | {"state": state}


def _converted(entry: dict[str, Any], group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
    if entry["exp_avg"].shape != parameter.shape:
        raise ValueError(
            f"this state of pytorch-cpr has a moment of shape {tuple(entry['exp_avg'].shape)} for a parameter of shape "
            f"{tuple(parameter.shape)}. Build AdamCPR from the package's own groups, in their order"
        )
    state = {name: entry[name] for name in ("step", *MOMENTS) if name in entry}
    kappa, multiplier = (entry[name].detach().reshape(1).to(scalar_dtype(parameter)) for name in ("kappa", "lagmul"))
    method = group["kappa_init_method"]
    never_set = (
        kappa.item() == 0 if method == "warm_start" else method == "inflection_point" and kappa.item() in NEVER_FOUND
    )
    if not group["regularize"] or never_set:
        return state
    kappa = kappa / (1 if group["reg_function"] == "std" else parameter.numel())
    started = bounds.initial_state(group, [parameter], kappa)
    started |= {"lagmul": multiplier, "kappa": kappa, "kappa_set": torch.ones_like(started["kappa_set"])}
    if "was_active" in started:
        started["was_active"] = multiplier > 0
    return state | {name: vector[0] for name, vector in started.items()}
