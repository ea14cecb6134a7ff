"""Parameter names for messages, `repr` and `cpr.snapshot`, and the split of a module into groups."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cpr.groups import decisions

SHOWN = 6  # names of each kind in `repr`
KEPT = ("_names", "_reasons", "_reg_embedding", "_of_model")


class Named(Optimizer):
    """Base of AdamCPR, CPR and Hyperball, which know their parameters' names if they were built from a model."""

    _names: dict[int, str]
    _reasons: dict[str, str]

    def _start_naming(self, params: Any, reg_embedding: bool) -> None:
        self._names, self._reasons = {}, {}
        self._reg_embedding, self._of_model = reg_embedding, isinstance(params, nn.Module)
        if isinstance(params, nn.Module):
            self._learn_names(params)

    def _learn_names(self, model: nn.Module) -> dict[str, str | None]:
        """Remember the names of a module's parameters. Return why some are not bounded."""
        decided = decisions(model, self._reg_embedding)
        self._names |= {id(p): name for name, p in model.named_parameters()}
        self._reasons |= {name: reason for name, reason in decided.items() if reason}
        return decided

    def _split(self, param_group: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the group itself, or two groups if its `params` is a module.

        One holds what is regularized, the other what is not. An empty one is left out.
        """
        module = param_group["params"]
        if not isinstance(module, nn.Module):
            return [dict(param_group)]  # a copy: the caller may give the same groups to another optimizer
        param_group = {key: value for key, value in param_group.items() if key != "weight_decay"}
        decided = self._learn_names(module)
        parameters = [(p, decided[name] is None) for name, p in module.named_parameters()]
        split = {chosen: [p for p, bounded in parameters if bounded == chosen] for chosen in (True, False)}
        return [param_group | {"params": some, "regularize": chosen} for chosen, some in split.items() if some]

    def name_at(self, number: int, i: int) -> str:
        """Return the name of parameter i of group `number`, or its place if no name is known."""
        group = self.param_groups[number]
        if "param_names" in group:  # torch's, of named parameters
            return group["param_names"][i]
        return self._names.get(id(group["params"][i]), f"parameter {i} of group {number}")

    def name_of(self, parameter: Tensor) -> str:
        """Return the parameter's name in its model, or its place in the groups if no model was given."""
        for number, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p is parameter:
                    return self.name_at(number, i)
        raise ValueError(f"a tensor of shape {tuple(parameter.shape)} is not a parameter of this optimizer")

    def __repr__(self) -> str:
        """List what is bounded, what is not and why, and the settings of each group."""
        lines = [type(self).__name__ + " ("]
        for number, group in enumerate(self.param_groups):
            parameters = group["params"]
            kind = "bounded" if group["regularize"] else "not bounded"
            lines.append(
                f"Parameter group {number}: {kind}, {len(parameters)} parameters, {sum(map(_numel, parameters)):,} elements"
            )
            lines += [f"    {line}" for line in self._listed(number)]
            lines += [
                f"    {key}: {group[key]}"
                for key in sorted(group)
                if key not in ("params", "param_names", "regularize")
            ]
        return "\n".join([*lines, ")"])

    def _listed(self, number: int) -> Iterator[str]:
        """Yield names with shapes, grouped by the reason that they are not bounded."""
        by_reason: dict[str, list[str]] = {}
        for i, p in enumerate(self.param_groups[number]["params"]):
            name = self.name_at(number, i)
            by_reason.setdefault(self._reasons.get(name, ""), []).append(f"{name} {tuple(p.shape)}")
        for reason, names in by_reason.items():
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield (f"{reason}: " if reason else "") + ", ".join(names[:SHOWN]) + more

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle take: torch's part, with the names in the order of the parameters."""
        names = [self._names.get(id(p)) for group in self.param_groups for p in group["params"]]
        return super().__getstate__() | {name: getattr(self, name) for name in KEPT} | {"_names": names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state that load_state_dict, copy and pickle give."""
        names = state.get("_names")
        super().__setstate__({name: value for name, value in state.items() if name != "_names"})
        if names is not None:
            parameters = [p for group in self.param_groups for p in group["params"]]
            self._names = {id(p): name for p, name in zip(parameters, names, strict=True) if name is not None}
        for name, value in (("_names", {}), ("_reasons", {}), ("_reg_embedding", False), ("_of_model", False)):
            self.__dict__.setdefault(name, value)


def _numel(p: Tensor) -> int:
    return 0 if is_lazy(p) else p.numel()
