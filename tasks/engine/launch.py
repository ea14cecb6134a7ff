"""Find this process's place in the run from the variables of torchrun or srun. Doesn't import torch."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Process `rank` of `world`, number `local_rank` on its machine.

    `bound`: srun may show each process only its own GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    bound: bool = False


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return this process's place, from torchrun's variables or else those of a Slurm step.

    A batch script is not a step of srun. Without either, the process is the only one.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return Launch(rank, world, int(environment.get("LOCAL_RANK", rank)))
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        # SLURM_NTASKS belongs to the job. In a shell that `salloc -n 4` opened it is 4, though the
        # shell is one task.
        world = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1"))
        return Launch(int(environment["SLURM_PROCID"]), world, int(environment.get("SLURM_LOCALID", "0")), bound=True)
    return Launch()


def meeting_point(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT, where the processes meet, unless the environment sets them.

    In a Slurm step this is the step's first machine, and a port derived from the job and the step.
    """
    machines = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    several = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES", "1")) > 1
    # Below 32768, where Linux's automatically assigned ports begin.
    port = 10000 + (97 * int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))) % 20000
    found = {"MASTER_ADDR": first_machine(machines) if machines and several else "127.0.0.1", "MASTER_PORT": str(port)}
    return {name: environment.get(name, value) for name, value in found.items()}


def first_machine(machines: str) -> str:
    """Return the first machine of a Slurm list: node01 for "node[01-03,07],other"."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", machines).split(",")[0]
