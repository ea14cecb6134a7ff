"""Hyperball (arXiv 2606.16899): matrices and their updates have a fixed norm, around any torch optimizer."""

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cpr import saved, settings
from cpr.distributed import is_sharded
from cpr.measures import MEASURES, scalar_dtype
from cpr.named import Named
from cpr.wrapper import step_without_global_hooks

RADIUS = "radius"


class Hyperball(Named):
    """θ ← R·Norm(θ − η·R·Norm(u)) on each regularized matrix, with R = ‖θ_0‖ and Norm(x) = x/‖x‖.

        groups = cpr.regularized_groups(model)
        adam_h = Hyperball(torch.optim.Adam(groups, lr=1e-3), lr_ratio=10)  # η = 0.01
        hidden = [{"params": matrices, "regularize": True}]
        muon_h = Hyperball(torch.optim.Muon(hidden, lr=0.01, weight_decay=0))

    ‖·‖ is the Frobenius norm and u is the update of the wrapped `optimizer`. Parameters of groups with
    regularize=False get the wrapped optimizer's own step.

    η is the relative size of a step, about 1e-3 to 3e-2, and not Adam's learning rate. Both follow one
    schedule: η = lr·lr_ratio, where lr is the group's learning rate. A schedule, or a loop that gives
    all groups the same lr, thus keeps their ratio. The authors give both the same schedule too, with a
    peak of their own each. Their AdamH runs have η 0.02 and Adam's lr 0.008 at 130M parameters, η 0.015
    and lr 0.0015 at 1.2B, 1,000 warm-up steps and β_2 = 0.98. They start from η = √(lr·wd) of AdamW.

    Sources: the authors' blog (Wen et al., part 1, December 2025), their code in levanter (adamh.py,
    muonh.py) and the runs just named in marin (adamh_llama_scaling). Of arXiv 2606.16899 the abstract
    and summaries by others were read, and neither its appendix nor its ablations. They agree on the
    formula. In levanter:

      - Every linear layer's weight is on its sphere, the output layer's too. With MuonH the output layer
        has AdamH. Embeddings, norm gains and biases have Adam without decay.
      - A matrix has one norm, not one per head. A tensor that stacks layers has one norm a layer. Here a
        parameter is one matrix, also a convolution's, or the three of nn.MultiheadAttention.
      - ‖u‖ is at least 1e-10. Here a matrix stays where it is if u is 0.

    Args:
        optimizer: any torch optimizer without weight decay whose update depends on gradients alone. Its
            groups have the key `regularize: bool`.
        lr_ratio: η/lr > 0. A group's own entry `lr_ratio` overrides it.

    Raises:
        TypeError: `optimizer` is not an optimizer.
        ValueError: an argument out of its range, nothing to regularize, weight decay, an optimizer that
            bounds its matrices already, wraps another one, needs a closure, or whose update depends on
            the weights, a matrix that is 0, or a regularized parameter that is complex, float16 or
            sharded.

    To read u, the wrapped optimizer steps from 0. That is exact, and the matrices are put back if the
    step fails. Two steps of a small matrix show here whether an optimizer's update depends on the
    weights. It does for torch's Adafactor and ASGD, timm's AdamP, SGDP and MADGRAD, and for LAMB with
    always_adapt. Hooks of the wrapped optimizer see matrices of 0 before its step and −lr·u after it.
    A step needs a temporary copy of the regularized matrices.

    R is taken before a matrix' first step and is the entry `radius` of its state, which is that of the
    wrapped optimizer. A state that was saved without Hyperball is taken, and R is then that of the
    present matrices. bfloat16 matrices step in float32 and are rounded once.
    """

    def __init__(self, optimizer: Optimizer, lr_ratio: float = 1.0) -> None:
        name = type(optimizer).__name__
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"Hyperball wraps an optimizer, as in Hyperball(torch.optim.Adam(...)), not {name}")
        if isinstance(optimizer, Named):
            raise ValueError(f"{name} bounds its matrices already. Pass Hyperball an optimizer that does not")
        if any(isinstance(inner, Optimizer) for inner in vars(optimizer).values()):
            raise ValueError(
                f"{name} wraps an optimizer of its own. Put Hyperball around that one, and {name} around it"
            )
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(f"{name} evaluates its closure several times in a step. Use another optimizer")
        self.optimizer = optimizer
        self._start_naming(None, reg_embedding=False)
        super().__init__(optimizer.param_groups, optimizer.defaults | {"lr_ratio": lr_ratio})
        self.state = optimizer.state
        settings.require_regularized(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group here and, unless it has it already, to the wrapped optimizer.

        Its key `regularize` says whether its matrices keep their norm. See AdamCPR.add_param_group.
        """
        if any(param_group is group for group in self.optimizer.param_groups):
            self._add(param_group)
            return
        for group in self._split(param_group):
            self.optimizer.add_param_group(group)
            with settings.taken_back(self.optimizer):
                self._add(self.optimizer.param_groups[-1])

    def _add(self, group: dict[str, Any]) -> None:
        settings.require_said({"regularize"} & set(group))
        super().add_param_group(group)
        with settings.taken_back(self):
            self._check_group(group)
            if group["regularize"]:
                for i, parameter in enumerate(group["params"]):
                    _check_matrix(parameter, self.name_at(len(self.param_groups) - 1, i))
                if group["params"] and _depends_on_weights(self.optimizer, group):
                    raise ValueError(
                        f"the update of {type(self.optimizer).__name__} depends on the weights, and Hyperball reads it "
                        "at weights of 0. Use an optimizer whose update depends on gradients alone, such as Adam"
                    )

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for a setting out of its range."""
        if not isinstance(group["regularize"], bool):
            raise ValueError(f"regularize={group['regularize']!r} must be True or False")
        settings.check_number("lr_ratio", group["lr_ratio"], lambda ratio: 0 < ratio < float("inf"), "a number > 0")
        if group.get("weight_decay", 0) != 0:
            raise ValueError(
                f"weight_decay={group['weight_decay']} in a group of {type(self.optimizer).__name__}: Hyperball fixes "
                "the norm instead. Build the optimizer with weight_decay=0"
            )

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Do one step of the wrapped optimizer, and turn that of each regularized matrix into a rotation.

        Return the closure's loss, if one is given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving: list[tuple[Tensor, Tensor, Any]] = []
        for number, group in enumerate(self.param_groups):
            self._check_group(group)
            for i, p in enumerate(group["params"] if group["regularize"] else ()):
                if p.grad is not None:
                    moving.append((p, self._radius(p, number, i), group["lr"] * group["lr_ratio"]))
        starts = [p.detach().clone() for p, _, _ in moving]
        try:
            for p, _, _ in moving:
                p.zero_()
            step_without_global_hooks(self.optimizer)  # a matrix is −lr·u now
        except BaseException:
            for (p, _, _), start in zip(moving, starts, strict=True):
                p.copy_(start)
            raise
        for (p, radius, eta), start in zip(moving, starts, strict=True):
            _rotate(p, start, radius, eta)
            self.optimizer.state[p][RADIUS] = radius
        return loss

    def _radius(self, parameter: Tensor, number: int, i: int) -> Tensor:
        """Return R of parameter i of group `number`, which is the present norm before its first step."""
        state = self.optimizer.state.get(parameter, {})
        return state[RADIUS] if RADIUS in state else _first_norm(parameter, self.name_at(number, i))

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle take: torch's part and the wrapped optimizer."""
        return super().__getstate__() | {"optimizer": self.optimizer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returns, or the state of the wrapped optimizer alone.

        Settings that the saved groups lack are taken from this optimizer.

        Raises:
            ValueError: another number of groups or parameters, or a moment of another shape than its
                parameter.
        """
        with saved.loading(self, state_dict) as state_dict:
            saved.check_shapes(self, state_dict, self.name_of)
            self.optimizer.load_state_dict(state_dict)
            self.param_groups = list(self.optimizer.param_groups)
            self.state = self.optimizer.state
            saved.restore(self, state_dict, (RADIUS,))


def _rotate(matrix: Tensor, start: Tensor, radius: Tensor, eta: Any) -> None:
    """θ ← R·Norm(θ − η·R·Norm(u)), where the matrix holds −lr·u and `start` holds θ."""
    wide = matrix.to(scalar_dtype(matrix))
    length = _norm(wide)
    moves = length != 0
    wide.mul_(torch.where(moves, eta * radius / length, 0)).add_(start)
    wide.mul_(torch.where(moves, radius / _norm(wide), 1))
    matrix.copy_(wide)


def _norm(tensor: Tensor) -> Tensor:
    """Return ‖·‖, 0-dim, in float64. It does not depend on the number of threads."""
    return MEASURES["l2"].sums(tensor)[0].sqrt()


def _first_norm(parameter: Tensor, name: str) -> Tensor:
    norm = _norm(parameter.detach())
    if norm == 0:
        raise ValueError(
            f"{name} of shape {tuple(parameter.shape)} is 0, and Hyperball would keep it there. "
            "Initialize it with other values, or put it into a group with regularize=False"
        )
    return norm


def _check_matrix(parameter: Tensor, name: str) -> None:
    kind = None
    if parameter.is_complex():
        kind = "is complex"
    elif parameter.dtype == torch.float16:
        kind = "is float16, which can't hold small updates"
    elif is_sharded(parameter) or getattr(parameter, "_fsdp_flattened", False) or hasattr(parameter, "ds_id"):
        kind = "is sharded, and Hyperball needs whole matrices"
    if kind:
        raise ValueError(
            f"{name} of shape {tuple(parameter.shape)} {kind}. Put it into a group with regularize=False, "
            "or train with whole float32 matrices"
        )
    if parameter.requires_grad and not (is_lazy(parameter) or parameter.is_meta):
        _first_norm(parameter, name)


def _depends_on_weights(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Return whether the optimizer moves a small matrix otherwise if the matrix is 0 before each step."""
    if hasattr(optimizer, "eval"):  # schedule-free: it trains at a mean of two sequences of its own
        return True
    try:
        as_it_is, from_zero = (_moves(optimizer, group, at_zero) for at_zero in (False, True))
    except Exception as error:
        raise ValueError(
            f"{type(optimizer).__name__} can't step a small dense matrix, which would show whether its update "
            f"depends on the weights ({error}). Use another optimizer, such as Adam"
        ) from error
    return not torch.allclose(as_it_is, from_zero, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def _moves(optimizer: Optimizer, group: dict[str, Any], at_zero: bool) -> Tensor:
    """Return by how much the optimizer's first two steps, at lr 1, move a small matrix [2, 2, 2]."""
    device = group["params"][0].device
    matrix = nn.Parameter(torch.tensor([[3.0, -2.0], [1.0, 4.0]], device="cpu" if device.type == "meta" else device))
    lr = torch.ones_like(group["lr"]) if isinstance(group["lr"], Tensor) else 1.0
    probe = object.__new__(type(optimizer))
    vars(probe).update(vars(optimizer), state=defaultdict(dict))
    probe.param_groups = [group | {"params": [matrix], "lr": lr}]
    moves = []
    # AdamP and SGDP project a gradient that is almost orthogonal to the matrix, as the first one is.
    for gradient in ([[2.0, 3.1], [-4.0, 1.1]], [[0.5, -1.0], [2.0, 1.0]]):
        start = matrix.zero_().clone() if at_zero else matrix.clone()
        matrix.grad = torch.tensor(gradient, device=matrix.device)
        inspect.unwrap(type(optimizer).step)(probe)  # without hooks
        moves.append(matrix - start)
    return torch.stack(moves)
