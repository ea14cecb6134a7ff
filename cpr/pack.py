"""Parameters of one group that step together: their tensors in lists, and their scalars in vectors.

The optimizer's per-parameter state (what `state_dict()` saves) holds 0-dim views of the vectors, so that a step is a fixed
number of operations on vectors however many matrices there are.
"""

import operator
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cpr import constraint
from cpr.distributed import Shards, local, mesh_of, wait_for
from cpr.measures import MEASURES, Measure, Pull, scalar_dtype

Sums = Callable[[Sequence[Tensor], Measure], Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class Pack:
    """Parameters of one device, dtype and mesh.

    `tensors`, `exp_avgs`, ...: this rank's part of each parameter and of its moments. `scalars`: name -> vector [parameters];
    "step" counts each one's own updates. n: elements of each whole parameter, float64.
    """

    def __init__(
        self, parameters: list[Tensor], group: dict[str, Any], state: MutableMapping[Tensor, Any], sums: Sums, moments: bool
    ) -> None:
        self.parameters = parameters
        self.measure = MEASURES[group["reg_function"]] if group["regularize"] else None
        self.n = torch.tensor([p.numel() for p in parameters], dtype=torch.float64, device=parameters[0].device)
        self._sums_of = sums
        self._shards = Shards(parameters)
        self._kept: Tensor | None = None
        self._work: Any = None
        self._versions: list[int] = []
        states = [state[p] for p in parameters]
        self._start(group, states, moments)
        self.scalars = {
            name: _joined(states, name, parameters[0]) for name in ("step", *constraint.STATE) if any(name in entry for entry in states)
        }
        self.steps = [entry["step"] for entry in states]
        self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs = (
            [local(entry[name]) for entry in states if name in entry] for name in MOMENTS
        )

    @property
    def tensors(self) -> list[Tensor]:
        """This rank's part of every parameter, as it is now: sharding libraries may exchange it."""
        return self.parameters if mesh_of(self.parameters[0]) is None else [local(p) for p in self.parameters]

    def _start(self, group: dict[str, Any], states: list[dict[str, Any]], moments: bool) -> None:
        """Fills the state of parameters that are new here (or come from a checkpoint of another Adam, without constraints)."""
        for parameter, entry in zip(self.parameters, states, strict=True):
            if "step" not in entry:
                entry["step"] = torch.zeros((), device=parameter.device)
            for name in MOMENTS[: (3 if group["amsgrad"] else 2) if moments else 0]:
                if name not in entry:
                    entry[name] = torch.zeros_like(parameter)
                elif entry[name].stride() != parameter.stride():  # from a checkpoint of another memory format
                    entry[name] = torch.empty_like(parameter).copy_(entry[name])
        new = [i for i, entry in enumerate(states) if "lagmul" not in entry]
        if self.measure is None or not new:
            return
        value = self.measure.value(self.sums(), self.n).to(scalar_dtype(self.parameters[0]))
        for name, vector in constraint.start(group, [self.parameters[i] for i in new], value[new]).items():
            for i, scalar in zip(new, vector.unbind(), strict=True):
                states[i][name] = scalar

    def pull(self, group: dict[str, Any]) -> Pull:
        """λ_{t+1} and the pull, from R of the parameters as they are (paper, Algorithm 1)."""
        return constraint.pull(group, self.scalars, self.scalars["step"], self.sums(), self.n)

    def sums(self) -> Tensor:
        """What R of every parameter is made of; what `keep` was given, unless a parameter has changed since."""
        assert self.measure is not None
        if self._kept is None or self._versions != self._versions_now():
            self.keep(self._sums_of(self.tensors, self.measure))
        wait_for(self._work)
        self._work = None
        assert self._kept is not None
        return self._kept

    def keep(self, sums: Tensor | None) -> None:
        """Remembers this rank's sums of the parameters as they are now, and starts adding up those of all ranks."""
        wait_for(self._work)
        self._kept = sums
        self._work = None if sums is None else self._shards.add_up(sums)
        self._versions = self._versions_now()

    def _versions_now(self) -> list[int]:
        """Counts of in-place changes: our steps count at a DTensor's shard, everybody else's at the DTensor itself."""
        return [t._version for t in (self.tensors if mesh_of(self.parameters[0]) is None else [*self.tensors, *self.parameters])]


Known = dict[int, tuple[list[Tensor], list[Any]]]


def packed(
    known: Known, number: int, parameters: list[Tensor], kind: Callable[[Tensor], Any], make: Callable[[list[Tensor], Any], Any]
) -> list:
    """What `make(parameters, kind)` gives for the parameters of each kind; kept in `known[number]` as long as they stay the same ones."""
    before, packs = known.get(number, ([], []))
    if len(before) == len(parameters) and all(map(operator.is_, before, parameters)):
        return packs
    alike: dict[Any, list[Tensor]] = {}
    for p in parameters:
        alike.setdefault(kind(p), []).append(p)
    known[number] = (parameters, [make(same, its_kind) for its_kind, same in alike.items()])
    return known[number][1]


def _joined(states: list[dict[str, Any]], name: str, parameter: Tensor) -> Tensor:
    """The scalars as one vector, of which each state's entry becomes a view."""
    dtype = torch.bool if name in ("kappa_set", "was_active") else torch.float32 if name == "step" else scalar_dtype(parameter)
    vector = torch.stack([entry[name].to(parameter.device, dtype) for entry in states])
    for entry, scalar in zip(states, vector.unbind(), strict=True):
        entry[name] = scalar
    return vector
