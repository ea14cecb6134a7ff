"""States that others have saved: an older version of cpr, another Adam, the authors' package; what they need to be loaded here."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cpr import constraint
from cpr.measures import scalar_dtype

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# The package's κ of an inflection point that it has not found, in versions 0.3.0 and 0.3.1.
NEVER_FOUND = (1e3, 1e6)


def completed(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state with the optimizer's own settings where the saved groups have none, and without weight decay, which CPR replaces.

    Raises ValueError for another number of groups.
    """
    ours, saved = optimizer.param_groups, state_dict["param_groups"]
    if len(ours) != len(saved):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved)}, not {len(ours)}. Load it into an optimizer `old` "
            "with the groups it was saved with, and go on from its moments: optimizer.state.update(old.state)"
        )
    groups = [own | its | ({"weight_decay": 0.0} if "weight_decay" in its else {}) for own, its in zip(ours, saved, strict=True)]
    return state_dict | {"param_groups": groups}


def is_of_the_package(state_dict: dict[str, Any]) -> bool:
    """Whether pytorch-cpr saved it: its λ comes with an update rate for every parameter, and without our flag of κ."""
    return any("kappa_update" in entry for entry in state_dict["state"].values())


def from_the_package(state_dict: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The package's state in our terms; `groups`: the optimizer's, whose parameters are those of the saved ones, in their order.

    The moments, the step and λ stay as they are. κ, there a sum over the elements (but of std), is divided by their number. What
    stands there for "not set" becomes a constraint that is yet to start: warm start goes on exactly, and the inflection point is
    looked for anew, since the package's samples are of another quantity.
    Raises ValueError where a moment has not the parameter's shape.
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
            f"{tuple(parameter.shape)}: pass AdamCPR the groups that the package made, in their order"
        )
    state = {name: entry[name] for name in ("step", *MOMENTS) if name in entry}
    kappa, multiplier = (entry[name].detach().reshape(1).to(scalar_dtype(parameter)) for name in ("kappa", "lagmul"))
    method = group["kappa_init_method"]
    never_set = kappa.item() == 0 if method == "warm_start" else method == "inflection_point" and kappa.item() in NEVER_FOUND
    if not group["regularize"] or never_set:
        return state
    kappa = kappa / (1 if group["reg_function"] == "std" else parameter.numel())
    started = constraint.start(group, [parameter], kappa)
    started |= {"lagmul": multiplier, "kappa": kappa, "kappa_set": torch.ones_like(started["kappa_set"])}
    if "was_active" in started:
        started["was_active"] = multiplier > 0
    return state | {name: vector[0] for name, vector in started.items()}
