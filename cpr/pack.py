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
from cpr.distributed import Additions, Shards, local, local_gradient, mesh_of
from cpr.measures import MEASURES, Measure, Pull, scalar_dtype
from cpr.saved import MOMENTS

Sums = Callable[[Sequence[Tensor], Measure], Tensor]


class Pack:
    """Parameters of one device, dtype and mesh.

    `tensors`, `exp_avgs`, ...: this rank's part of each parameter and of its moments. `scalars`: name -> vector [parameters];
    "step" counts each one's own updates. n: elements of each whole parameter, float64. sums: what R of every parameter is made of,
    float64 [parameters, 2]; of the parameters as they are, if `knows_sums`.
    """

    def __init__(
        self, parameters: list[Tensor], group: dict[str, Any], state: MutableMapping[Tensor, Any], sums: Sums, moments: bool
    ) -> None:
        self.parameters = parameters
        self.mesh = mesh_of(parameters[0])
        self.measure = MEASURES[group["reg_function"]] if group["regularize"] else None
        self.before = self.measure is not None and group["evaluate_at"] == "before"
        self.n = torch.tensor([p.numel() for p in parameters], dtype=torch.float64, device=parameters[0].device)
        self.shards = Shards(parameters)
        self.sums: Tensor | None = None
        self.scalars: dict[str, Tensor] = {}
        self._sums_of = sums
        self._versions: list[int] = []
        self._states = [state[p] for p in parameters]
        self._start_adam(MOMENTS[: 3 if group["amsgrad"] else 2] if moments else ())
        self.unbounded = [] if self.measure is None else [i for i, entry in enumerate(self._states) if "kappa_set" not in entry]

    @property
    def tensors(self) -> list[Tensor]:
        """This rank's part of every parameter, as it is now: sharding libraries may exchange it."""
        return self.parameters if self.mesh is None else [local(p) for p in self.parameters]

    @property
    def gradients(self) -> list[Any]:
        """This rank's part of every gradient."""
        return [p.grad for p in self.parameters] if self.mesh is None else [local_gradient(p) for p in self.parameters]

    def _start_adam(self, moments: Sequence[str]) -> None:
        """Fills in the step and the moments of parameters that are new here."""
        for parameter, entry in zip(self.parameters, self._states, strict=True):
            if "step" not in entry:
                entry["step"] = torch.zeros((), device=parameter.device)
            for name in moments:
                if name not in entry:
                    entry[name] = torch.zeros_like(parameter)
                elif entry[name].stride() != parameter.stride():  # from a checkpoint of another memory format
                    entry[name] = torch.empty_like(parameter).copy_(entry[name])

    def start(self, group: dict[str, Any]) -> None:
        """Starts the constraints that have no state yet, from `sums`, and joins all scalars in vectors."""
        if self.unbounded and self.measure is not None and self.sums is not None:
            value = self.measure.value(self.sums, self.n).to(scalar_dtype(self.parameters[0]))
            new = constraint.start(group, [self.parameters[i] for i in self.unbounded], value[self.unbounded])
            for name, vector in new.items():
                for i, scalar in zip(self.unbounded, vector.unbind(), strict=True):
                    self._states[i][name] = scalar
            self.unbounded = []
        names = [name for name in ("step", *constraint.STATE) if any(name in entry for entry in self._states)]
        self.scalars = {name: _joined(self._states, name, self.parameters[0]) for name in names}
        self.steps = [entry["step"] for entry in self._states]
        self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs = (
            [local(entry[name]) for entry in self._states if name in entry] for name in MOMENTS
        )

    def pull(self, group: dict[str, Any]) -> Pull:
        """λ_{t+1} and the pull, from `sums` (paper, Algorithm 1)."""
        assert self.sums is not None
        return constraint.pull(group, self.scalars, self.scalars["step"], self.sums, self.n)

    def pull_before(self, group: dict[str, Any]) -> Pull | None:
        """That of a step with evaluate_at="before"; None for others, and for parameters that are not regularized."""
        return self.pull(group) if self.before else None

    def keep(self, sums: Tensor | None) -> None:
        """Remembers the sums of the parameters as they are now; None: they are not known."""
        self.sums = sums
        self._versions = [] if sums is None else self._versions_now()

    @property
    def knows_sums(self) -> bool:
        """Whether `sums` are those of the parameters as they are."""
        return self.sums is not None and self._versions == self._versions_now()

    def take_sums(self) -> None:
        """Sums up this rank's parts of the parameters as they are now."""
        assert self.measure is not None
        self.keep(self._sums_of(self.tensors, self.measure))

    def _versions_now(self) -> list[int]:
        """Counts of in-place changes: our steps count at a DTensor's shard, everybody else's at the DTensor itself."""
        return [t._version for t in (self.tensors if self.mesh is None else [*self.tensors, *self.parameters])]


class Packs:
    """An optimizer's packs, and what their ranks add up."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Tensor], list[Any]]] = {}
        self._additions = Additions()

    def of(
        self, number: int, parameters: list[Tensor], kind: Callable[[Tensor], Any], make: Callable[[list[Tensor], Any], Any]
    ) -> list[Any]:
        """What `make(parameters, kind)` gives for the parameters of each kind in group `number`; kept while they stay the same ones."""
        before, packs = self._known.get(number, ([], []))
        if len(before) == len(parameters) and all(map(operator.is_, before, parameters)):
            return packs
        alike: dict[Any, list[Tensor]] = {}
        for p in parameters:
            alike.setdefault(kind(p), []).append(p)
        self._known[number] = (parameters, [make(same, its_kind) for its_kind, same in alike.items()])
        return self._known[number][1]

    def begin(self, packs: Sequence[tuple[Pack, dict[str, Any]]]) -> None:
        """To be called when a step begins, with every pack and its group: brings the sums up to date that the step needs."""
        self._additions.wait()
        needed = [pack for pack, _ in packs if (pack.before or pack.unbounded) and not pack.knows_sums]
        for pack in needed:
            pack.take_sums()
        self._add_up(needed)
        self._additions.wait()
        for pack, group in packs:
            if not pack.scalars:
                pack.start(group)

    def finish(self, packs: Sequence[Pack]) -> None:
        """To be called when all packs are written: starts adding up the sums of those that are sharded.

        Those of packs with evaluate_at="after" are taken and waited for, as their pull follows.
        """
        for pack in packs:
            if not pack.knows_sums and (not pack.before or pack.shards.group is not None):
                pack.take_sums()
        self._add_up(packs)
        if not all(pack.before for pack in packs):
            self._additions.wait()

    def _add_up(self, packs: Sequence[Pack]) -> None:
        sharded = [pack for pack in packs if pack.shards.group is not None]
        totals = self._additions.start([(pack.shards, pack.sums) for pack in sharded if pack.sums is not None])
        for pack, total in zip(sharded, totals, strict=True):
            pack.sums = total


def _joined(states: list[dict[str, Any]], name: str, parameter: Tensor) -> Tensor:
    """The scalars as one vector, of which each state's entry becomes a view."""
    dtype = torch.bool if name in ("kappa_set", "was_active") else torch.float32 if name == "step" else scalar_dtype(parameter)
    vector = torch.stack([entry[name].to(parameter.device, dtype) for entry in states])
    for entry, scalar in zip(states, vector.unbind(), strict=True):
        entry[name] = scalar
    return vector
