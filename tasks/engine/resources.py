"""What a run needs at paper scale: GPUs, memory and time (configs/scale/paper/*.yaml)."""

from typing import Literal

from pydantic import Field

from tasks.engine.section import NonNegative, NonNegativeInt, Positive, PositiveInt, Section

Card = Literal["A100", "A100-40GB", "H100", "RTX3090", "RTX4090"]

# Bytes of a parameter that is trained: float32 weight, gradient and Adam's two moments.
TRAINED = 4 + 4 + 8
# Under autocast a forward pass keeps a bfloat16 copy of each weight. Frozen weights are bfloat16 alone.
BFLOAT16 = 2
# What a GPU needs beside tensors: CUDA's context and libraries, in GB, and a share for fragmentation
# and for the buffers of a backward pass.
CONTEXT, SLACK = 2.0, 1.1


class Resources(Section):
    """What one run needs."""

    gpus: dict[Literal["cuda"], PositiveInt] = Field(
        description="GPUs of a run by `device=`, if `gpus=` names no other number: the paper's. Other devices have one process"
    )
    micro_batch: PositiveInt | None = Field(
        description="examples of a forward pass on one GPU, if `micro_batch=` names no other number"
    )
    loader_workers: NonNegativeInt = Field(
        default=0, description="processes that read images ahead, if `loader_workers=` names no other number"
    )
    cpus: PositiveInt = Field(description="CPU cores of each process, if `launcher.cpus=` names no other number")
    memory: Positive = Field(description="main memory of a job in GB, if `launcher.memory=` names no other number")
    trained: Positive = Field(description="millions of parameters that are trained")
    frozen: NonNegative = Field(default=0, description="millions of parameters that are not")
    activations: NonNegative = Field(description="GB that the backward pass of one example needs")
    checkpointed: Positive | None = Field(
        default=None, description="the same with `gradient_checkpointing=true`. null: not counted"
    )
    batch_norm: bool = Field(
        default=False, description="whether the whole batch must be in memory, because its statistics are used"
    )
    gpu_seconds: Positive = Field(description="of one update of the whole batch, summed over its GPUs")
    card: Card = Field(description="the GPU of `gpu_seconds`")
    source: str = Field(description="where `gpu_seconds` is from")
    slower: dict[str, Positive] = Field(
        default={}, description="multiples of `gpu_seconds` for regularizers whose steps are slower"
    )
    images_per_worker: Positive | None = Field(
        default=None, description="images that one of `loader_workers` reads in a second"
    )
    gpu_hours_beside: NonNegative = Field(default=0, description="GPU-hours of a run beside its updates")


def gigabytes(
    needs: Resources, *, batch_size: int, processes: int, micro_batch: int | None, sharded: bool, checkpointing: bool
) -> float:
    """Return the GPU memory that each process of a run needs, in GB.

    Args:
        needs: of the task.
        batch_size: examples of an update, over all processes.
        processes: of the run, one for each GPU.
        micro_batch: examples of a forward pass. None for the process's share of the batch.
        sharded: whether weights, gradients and moments are divided among the processes (`parallel=fsdp`).
        checkpointing: whether activations are computed again in the backward pass.
    """
    share = -(-batch_size // processes)
    examples = share if micro_batch is None else min(micro_batch, share)
    states = (needs.trained * (TRAINED + BFLOAT16) + needs.frozen * BFLOAT16) / 1000
    kept = needs.checkpointed if checkpointing and needs.checkpointed is not None else needs.activations
    return SLACK * (states / (processes if sharded else 1) + examples * kept) + CONTEXT


def pass_sizes(batch_size: int, processes: int) -> list[int]:
    """Return what `micro_batch` may be, in examples, the largest first: the whole share of a process, and what divides it.

    Each update then has the same number of passes of that size in every process.
    """
    share = -(-batch_size // processes)
    return [share, *(size for size in range(share - 1, 0, -1) if batch_size % (processes * size) == 0)]
