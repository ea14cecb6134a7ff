"""Replicate a model over several processes or shard it (FSDP2), and gather its state for checkpoints."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from cpr.distributed import is_sharded
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.parallel import Ranks


def check_batch_norm(cfg: Config, model: nn.Module, ranks: Ranks, device: torch.device) -> None:
    """Raise UserError if batch normalization can't use the statistics of the global batch."""
    if not has_batch_norm(model):
        return
    if ranks.world > 1 and device.type == "cpu":
        raise UserError(
            f"{type(model).__name__} has batch normalization, which PyTorch synchronizes on GPUs alone; on the CPU say nodes=1 gpus=1"
        )
    if cfg.micro_batch is not None and cfg.micro_batch * ranks.world < cfg.task.batch_size:
        raise UserError(
            f"micro_batch={cfg.micro_batch}: {type(model).__name__} has batch normalization, whose statistics are of the whole batch; "
            "say micro_batch=null"
        )


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether an example's output depends on the rest of its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def check_parts(model: nn.Module, count: int, ranks: Ranks) -> None:
    """Raise UserError if a process without an example would disturb the others' batch normalization.

    Args:
        model: the model to be trained.
        count: examples in the global batch.
        ranks: the run's processes.
    """
    if count < ranks.world and has_batch_norm(model):
        raise UserError(
            f"an epoch's last batch has {count} example(s), too few for {ranks.world} processes with batch normalization"
        )


def distribute(
    cfg: Config, model: nn.Module, blocks: list[nn.Module] | None, ranks: Ranks, device: torch.device
) -> nn.Module:
    """Return the model that this process trains.

    It has the first process's values and synchronized batch normalization, and is sharded if asked
    for.
    """
    if ranks.world == 1:
        return model
    if has_batch_norm(model):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model, ranks.group)
    # Another machine's processor may round an initialization differently.
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0, group=ranks.group)
    if cfg.parallel == "fsdp":
        _shard(model, blocks, ranks, device)
    return model


def _shard(model: nn.Module, blocks: list[nn.Module] | None, ranks: Ranks, device: torch.device) -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh.from_group(ranks.group, device.type)
    marks = {name: dict(parameter.__dict__) for name, parameter in model.named_parameters()}
    try:
        for block in _blocks(model) if blocks is None else blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    except NotImplementedError as error:  # for example, for channels-last parameters
        raise UserError(f"parallel=fsdp cannot shard {type(model).__name__} ({error}); use parallel=ddp") from error
    # Sharding makes new parameter objects, which lack marks such as `_no_weight_decay`.
    for name, parameter in model.named_parameters():
        parameter.__dict__.update(marks[name])


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif any(True for _ in child.parameters()):
            yield child


def unsharded(state: Any, ranks: Ranks) -> Any:
    """Return a nested state without shards, as a single process would have it.

    All processes must call it. Only the first one gets the tensors.
    """
    if ranks.world == 1:
        return state
    if isinstance(state, dict):
        return {key: unsharded(value, ranks) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(unsharded(value, ranks) for value in state)
    if not is_sharded(state):
        return state
    gathered = state.full_tensor()
    return gathered.cpu() if ranks.first else None


def trained_state(model: nn.Module) -> dict[str, Any]:
    """Return the model's state without its frozen parameters, which the task rebuilds.

    For a LoRA model this leaves only the small matrices.
    """
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


def load(model: nn.Module, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]) -> None:
    """Load whole states, and keep this process's shards of them.

    Frozen parameters are not in the states and stay as they are.
    """
    own, frozen = model.state_dict(), _frozen(model)
    kept = {name: value for name, value in own.items() if name in frozen}
    model.load_state_dict(
        kept | {name: _as(own[name], value) if name in own else value for name, value in model_state.items()}
    )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    identifiers = [identifier for group in optimizer_state["param_groups"] for identifier in group["params"]]
    # Checkpoints of version 0.1 have groups without frozen parameters.
    if len(identifiers) < len(parameters):
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
    state = dict(optimizer_state["state"])
    for identifier, parameter in zip(identifiers, parameters, strict=True):
        if identifier in state:
            state[identifier] = {name: _as(parameter, value) for name, value in state[identifier].items()}
    optimizer.load_state_dict(optimizer_state | {"state": state})


def _as(own: Tensor, value: Any) -> Any:
    """Return this process's shard of `value` if `own` is sharded and has the same shape, else `value`."""
    if not is_sharded(own) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = own.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(value.to(own.device), mesh, own.placements, src_data_rank=None)  # type: ignore[attr-defined]
