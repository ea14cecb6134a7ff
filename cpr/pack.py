"""Bookkeeping between `optimizer.state` and a step: tensors in lists, scalars in vectors.

`optimizer.state` is the truth. Its 0-dim entries are views of the vectors, so a step is a fixed
number of operations however many matrices there are. An entry that was replaced is read before the
step and becomes a view again.
"""

import operator
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cpr import bounds
from cpr.distributed import Additions, Shards, local, local_gradient, mesh_of
from cpr.kernels import Kernel, select
from cpr.measures import MEASURES, Pull, scalar_dtype
from cpr.pieces import in_one_piece

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
State = MutableMapping[Tensor, Any]


class Pack:
    """Parameters of one group, device, dtype and mesh, with their state as vectors [parameters].

    Args:
        parameters: all of them, including those that have no gradient yet.
        group: the parameter group.
        kernel: does their steps. None chooses the fastest that `group["kernel"]` allows.
        moments: whether they have Adam's moments.
    """

    def __init__(self, parameters: list[Tensor], group: dict[str, Any], kernel: Kernel | None, moments: bool) -> None:
        first = parameters[0]
        self.parameters, self.group = parameters, group
        self._kernel = kernel
        self.mesh = mesh_of(first)
        self.measure = MEASURES[group["reg_function"]] if group["regularize"] else None
        self.before = self.measure is not None and group["evaluate_at"] == "before"
        self.after = self.measure is not None and group["evaluate_at"] == "after"
        self.moments = MOMENTS[: 3 if group["amsgrad"] else 2] if moments else ()
        self.names = ("step", *bounds.state_names(group))
        self.shards = Shards(parameters)
        self._read: Callable[[list[Tensor]], Any] = _layouts
        self._layouts = _layouts(parameters)
        self.n = torch.tensor([p.numel() for p in parameters], dtype=torch.float64, device=first.device)
        self.sums = torch.zeros(len(parameters), 2, dtype=torch.float64, device=first.device)
        # Of the C++ kernel. 0 means that the sums are unknown.
        self.marks = torch.zeros(len(parameters), dtype=torch.int64, device="cpu")
        self.seen: list[Any] = [None] * len(parameters)  # versions and addresses that `sums` belong to
        self.vectors = {
            name: torch.zeros(len(parameters), dtype=_dtype(name, first), device=first.device) for name in self.names
        }
        self._unbound = {name: vector.unbind() for name, vector in self.vectors.items()}
        self.views: list[Any] = [None] * len(parameters)
        self._started = [True] * len(parameters)
        self._index: tuple[list[int], Tensor] = ([], self.marks)

    @property
    def sharded(self) -> bool:
        """Whether sums are added up over ranks."""
        return self.shards.group is not None

    @property
    def kernel(self) -> Kernel:
        """Choose the kernel when first asked, since frozen parameters may be on any device."""
        if self._kernel is None:
            self._kernel = select(local(self.parameters[0]), self.group["kernel"])
        return self._kernel

    def gather(self, state: State, name_of: Callable[[Tensor], str]) -> "Matrices | None":
        """Return the parameters that have a gradient, with their entries of `state`, or None if none has.

        Raises:
            ValueError: a sparse gradient, or a moment that does not fit its parameter.
        """
        found = [(i, p, p.grad) for i, p in enumerate(self.parameters) if p.grad is not None]
        if not found:
            return None
        rows, tensors, gradients = map(list, zip(*found, strict=True))
        entries = [state[p] for p in tensors]
        for i, p, gradient, entry in zip(rows, tensors, gradients, entries, strict=True):
            if gradient.layout is not torch.strided:
                where = f"{name_of(p)} of shape {tuple(p.shape)}"
                raise ValueError(
                    f"AdamCPR does not support the sparse gradients of {where}. Build its layer with sparse=False"
                )
            views = self.views[i]
            if views is None or not all(map(operator.is_, map(entry.get, self.names), views)):
                self._adopt(i, entry)
        moments = tuple([entry.get(name) for entry in entries] for name in self.moments)
        if self.mesh is not None:
            gradients = list(map(local_gradient, tensors))
        if not self._fit(tensors, gradients, moments):
            self._mend(tensors, gradients, moments, state, name_of)
        if self.mesh is not None:
            tensors, moments = list(map(local, tensors)), tuple(list(map(local, lists)) for lists in moments)
        return Matrices(self, rows, tensors, gradients, moments)

    def _fit(self, tensors: list[Tensor], gradients: list[Tensor], moments: Sequence[list[Tensor]]) -> bool:
        """Return whether gradients have the right shapes, and moments exist with the right layouts."""
        if self.mesh is None and self.kernel.fit is not None:
            there = not any(moment is None for lists in moments for moment in lists)
            return there and self.kernel.fit(tensors, gradients, moments)
        shapes = all(gradient.shape == local(p).shape for p, gradient in zip(tensors, gradients, strict=True))
        return shapes and all(_fits(moment, p) for lists in moments for moment, p in zip(lists, tensors, strict=True))

    def _mend(
        self,
        tensors: list[Tensor],
        gradients: list[Tensor],
        moments: Sequence[list[Tensor]],
        state: State,
        name_of: Callable[[Tensor], str],
    ) -> None:
        """Make missing moments, and copy moments that lie in memory unlike their parameters.

        Raises:
            ValueError: another shape.
        """
        for p, gradient in zip(tensors, gradients, strict=True):
            if gradient.shape != local(p).shape:
                raise ValueError(
                    f"the gradient of {name_of(p)} has shape {tuple(gradient.shape)}, not {tuple(local(p).shape)}"
                )
        for name, lists in zip(self.moments, moments, strict=True):
            for at, p in enumerate(tensors):
                if not _fits(lists[at], p):
                    lists[at] = state[p][name] = _fitting(lists[at], p, name, name_of)

    def fits(self) -> bool:
        """Return whether every parameter still has the device, dtype and memory layout that it was sorted by."""
        kernels = None if self.mesh is not None or self._kernel is None else self._kernel.layouts
        layouts = kernels or _layouts
        if layouts is not self._read:  # the kernel has been chosen since
            same = self._layouts == self._read(self.parameters)
            self._read, self._layouts = layouts, layouts(self.parameters)
            return same
        return self._layouts == layouts(self.parameters)

    def _adopt(self, i: int, entry: dict[str, Any]) -> None:
        """Read the scalars of a parameter's state into the vectors. Missing ones start anew."""
        for name in self.names:
            view = self._unbound[name][i]
            if name in entry:
                if entry[name] is not view:
                    view.copy_(torch.as_tensor(entry[name]).reshape(()))
                    entry[name] = view
            elif name == "step":
                entry[name] = view.zero_()
            else:
                self._started[i] = False
        self.views[i] = tuple(map(entry.get, self.names))
        self.marks[i], self.seen[i] = 0, None

    def start(self, matrices: "Matrices", state: State) -> None:
        """Start the constraints that have no state yet, from the parameters' present sums."""
        new = [(at, i) for at, i in enumerate(matrices.rows) if not self._started[i]]
        if self.measure is None or not new:
            return
        value = self.measure.value(matrices.sums, matrices.n).to(scalar_dtype(self.parameters[0]))
        parameters = [self.parameters[i] for _, i in new]
        initial = bounds.initial_state(self.group, parameters, value[[at for at, _ in new]])
        entries = [state[p] for p in parameters]
        for name, vector in initial.items():
            lacking = [k for k, entry in enumerate(entries) if name not in entry]
            rows = [new[k][1] for k in lacking]
            self.vectors[name][rows] = vector[lacking]
            for k, i in zip(lacking, rows, strict=True):
                entries[k][name] = self._unbound[name][i]
        for (_, i), entry in zip(new, entries, strict=True):
            self._started[i], self.views[i] = True, tuple(map(entry.get, self.names))
        matrices.read_scalars()

    def index(self, rows: list[int]) -> Tensor:
        """Return the rows as a tensor on the parameters' device, cached while they stay the same."""
        if self._index[0] != rows:
            self._index = rows, torch.tensor(rows, device=self.n.device)
        return self._index[1]

    def has_unstarted(self, rows: list[int]) -> bool:
        return self.measure is not None and not all(map(self._started.__getitem__, rows))


class Matrices:
    """The parameters of a pack that take part in one step.

    With every parameter of the pack present, the vectors are the pack's own. Otherwise they are
    copies that `put_back` writes back.

    Attributes:
        tensors, gradients, exp_avgs, exp_avg_sqs, max_exp_avg_sqs: this rank's part of each.
        scalars: vectors [m] of λ, κ and the like.
        sums, n: [m, 2] and [m], see measures.py.
    """

    def __init__(
        self,
        pack: Pack,
        rows: list[int],
        tensors: list[Tensor],
        gradients: list[Tensor],
        moments: Sequence[list[Tensor]],
    ) -> None:
        self.pack, self.group, self.measure, self.kernel = pack, pack.group, pack.measure, pack.kernel
        self.rows, self.tensors, self.gradients = rows, tensors, gradients
        missing: list[list[Tensor]] = [[] for _ in range(3 - len(moments))]
        self.exp_avgs, self.exp_avg_sqs, self.max_exp_avg_sqs = [*moments, *missing]
        self.whole = len(rows) == len(pack.parameters)
        self.n, self.sums = (pack.n, pack.sums) if self.whole else (pack.n[self.index], pack.sums[self.index])
        self.marks = pack.marks if self.whole else pack.marks[rows]
        self.read_scalars()

    @property
    def index(self) -> Tensor:
        """Return their rows in the pack, as a tensor."""
        return self.pack.index(self.rows)

    def read_scalars(self) -> None:
        """Take the vectors from the pack."""
        vectors = self.pack.vectors
        self.scalars = vectors if self.whole else {name: vector[self.index] for name, vector in vectors.items()}

    @property
    def steps(self) -> list[Tensor]:
        """Return each parameter's count of updates, 0-dim."""
        return list(self.pack._unbound["step"] if self.whole else self.scalars["step"].unbind())

    def constrain(self) -> Pull:
        """Set λ_{t+1} = max(0, λ_t + μ (R(θ) − κ)) in place. Return the pull, λ_{t+1} ∇R(θ)."""
        return self.kernel.constrain(self)

    def adam_(self, pull: Pull | None = None) -> None:
        """θ ← θ + Opt(g) − pull."""
        self.kernel.adam_(self, pull)

    def pull_(self, pull: Pull) -> None:
        """θ ← θ − pull."""
        assert self.measure is not None
        self.kernel.pull_(self.tensors, pull, self.measure)

    def after_(self) -> None:
        """θ' = θ + Opt(g), λ_{t+1} from R(θ'), θ ← θ' − λ_{t+1} ∇R(θ').

        The matrices must be whole on this rank.
        """
        if self.kernel.after_ is not None:
            self.kernel.after_(self)
            return
        self.adam_()
        self.pull_(self.constrain())

    def knows_sums(self) -> bool:
        """Return whether `sums` match the present parameters.

        Parameters are compared by their counts of in-place changes and their addresses.
        """
        return list(map(self.pack.seen.__getitem__, self.rows)) == self._seen_now()

    def keep_sums(self) -> None:
        """Remember that `sums` match the present parameters."""
        for i, seen in zip(self.rows, self._seen_now(), strict=True):
            self.pack.seen[i] = seen

    def forget_sums(self) -> None:
        """Remember that `sums` don't match the parameters any more."""
        for i in self.rows:
            self.pack.seen[i] = None

    def _seen_now(self) -> list[Any]:
        """Return versions and addresses.

        A DTensor has two versions: our steps count at its shard, all other changes at the DTensor.
        """
        if self.pack.mesh is None:
            return [(t._version, t.data_ptr()) for t in self.tensors]
        own = map(self.pack.parameters.__getitem__, self.rows)
        return [(t._version, t.data_ptr(), p._version) for t, p in zip(self.tensors, own, strict=True)]

    def take_sums(self) -> None:
        """Sum up this rank's parts of the present parameters."""
        assert self.measure is not None
        self.sums.copy_(self.kernel.sums(self.tensors, self.measure))
        self.keep_sums()

    def take_totals(self, totals: Tensor) -> None:
        """Take the sums over all ranks."""
        self.sums.copy_(totals)
        if not self.whole:
            self.pack.sums.index_copy_(0, self.index, totals)

    def put_back(self) -> None:
        """Write the copies of vectors back to the pack."""
        if self.whole:
            return
        for name, vector in self.scalars.items():
            self.pack.vectors[name].index_copy_(0, self.index, vector)
        self.pack.sums.index_copy_(0, self.index, self.sums)
        self.pack.marks[self.rows] = self.marks


class Packs:
    """An optimizer's packs, and the sums that their ranks add up.

    Args:
        kernel: see Pack.
        moments: see Pack.
    """

    def __init__(self, kernel: Kernel | None, moments: bool) -> None:
        self._kernel, self._moments = kernel, moments
        self._known: dict[int, tuple[list[Tensor], list[Pack]]] = {}
        self._additions = Additions()

    def gather(
        self, groups: Sequence[tuple[int, dict[str, Any], bool]], state: State, name_of: Callable[[Tensor], str]
    ) -> list[Matrices]:
        """Return the matrices that step now.

        Args:
            groups: for each, its number, the group and whether its settings have changed.
            state: the optimizer's.
            name_of: names a parameter in messages.
        """
        found = []
        self._additions.wait()
        for number, _, changed in groups:
            # Drop the packs before anything can refuse this step: the next one may be accepted.
            if changed:
                self._known.pop(number, None)
        for number, group, _ in groups:
            for pack in self._of(number, group):
                if matrices := pack.gather(state, name_of):
                    found.append(matrices)
        return found

    def _of(self, number: int, group: dict[str, Any]) -> list[Pack]:
        """Return the packs of a group, rebuilt if its parameters have changed."""
        before, packs = self._known.get(number, ([], []))
        parameters = group["params"]
        same = len(before) == len(parameters) and all(map(operator.is_, before, parameters))
        if not (same and all(pack.fits() for pack in packs)):
            alike: dict[Any, list[Tensor]] = {}
            for p in parameters:
                alike.setdefault(_kind(p), []).append(p)
            packs = [Pack(same_kind, group, self._kernel, self._moments) for same_kind in alike.values()]
            self._known[number] = list(parameters), packs
        return packs

    def begin(self, matrices: Sequence[Matrices], state: State) -> None:
        """Update the sums that the step needs, and start constraints. Call this when a step begins."""
        needed = [m for m in matrices if m.pack.before or m.pack.has_unstarted(m.rows)]
        sharded = [m for m in needed if m.pack.sharded]
        for m in needed:
            if not m.pack.sharded:
                m.kernel.refresh(m)
        if stale := [m for m in sharded if not m.knows_sums()]:
            for m in stale:
                m.take_sums()
            self._add_up(stale)
            self._additions.wait()
        for m in needed:
            m.pack.start(m, state)

    def finish(self, matrices: Sequence[Matrices]) -> None:
        """Start to add up the sums of sharded matrices, after all are written.

        With evaluate_at="after" this waits for the totals.
        """
        sharded = [m for m in matrices if m.measure is not None and m.pack.sharded]
        for m in sharded:
            if not m.knows_sums():
                m.take_sums()
        self._add_up(sharded)
        if any(m.pack.after for m in sharded):
            self._additions.wait()

    def _add_up(self, sharded: Sequence[Matrices]) -> None:
        self._additions.start([(m.pack.shards, m.index, m.sums, m.take_totals) for m in sharded])


def _layouts(parameters: list[Tensor]) -> list[Any]:
    return [_layout(p) for p in parameters]


def _layout(p: Tensor) -> Any:
    if mesh_of(p) is None:
        return p.shape, p.stride(), p.dtype, p.device
    return p.shape, p.dtype, p.device, p.placements  # type: ignore[attr-defined]


def _kind(p: Tensor) -> Any:
    """Return what parameters of one pack have in common.

    It does not depend on the rank, so that ranks form the same packs.
    """
    return p.device, p.dtype, mesh_of(p), in_one_piece(local(p))


def _dtype(name: str, parameter: Tensor) -> torch.dtype:
    return (
        torch.bool
        if name in ("kappa_set", "was_active")
        else torch.float32
        if name == "step"
        else scalar_dtype(parameter)
    )


def _fits(moment: Tensor | None, p: Tensor) -> bool:
    if moment is None:
        return False
    return (
        moment.shape == p.shape
        and moment.stride() == p.stride()
        and moment.dtype == p.dtype
        and moment.device == p.device
    )


def _fitting(moment: Tensor | None, p: Tensor, name: str, name_of: Callable[[Tensor], str]) -> Tensor:
    """Return the moment in the parameter's dtype and memory layout, or zeros if there is none yet.

    Raises:
        ValueError: another shape or device.
    """
    if moment is None:
        return torch.zeros_like(p)
    if moment.shape != p.shape or moment.device != p.device:
        raise ValueError(
            f"state {name} of {name_of(p)} has shape {tuple(moment.shape)} on {moment.device}, and the parameter has "
            f"{tuple(p.shape)} on {p.device}. Change both together, or clear the parameter's state"
        )
    if moment.stride() == torch.empty_like(p, device="meta").stride() and moment.dtype == p.dtype:
        return moment  # torch makes moments without gaps, even if the parameter has gaps in memory
    return torch.empty_like(p).copy_(moment)
