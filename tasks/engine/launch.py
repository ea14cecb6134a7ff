"""Which of a run's processes this one is, as torchrun or srun says in the environment. Free of torch."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Process `rank` of `world`, the `local_rank`-th on its machine. `bound`: srun may show each process its own GPU alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    bound: bool = False


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """torchrun's word first, then Slurm's, in a step of srun (a batch script is none); else one process alone."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return Launch(rank, world, int(environment.get("LOCAL_RANK", rank)))
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        # SLURM_NTASKS is the job's: in a shell that `salloc -n 4` opened it is 4, though the shell is one task.
        world = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1"))
        return Launch(int(environment["SLURM_PROCID"]), world, int(environment.get("SLURM_LOCALID", "0")), bound=True)
    return Launch()


def meeting_point(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT: where the processes find each other, as far as the environment does not say so itself.

    In a Slurm step that is the first machine of the step, and a port that follows from the job and the step.
    """
    machines = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    several = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES", "1")) > 1
    # Below 32768, where Linux begins to hand out ports by itself.
    port = 10000 + (97 * int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))) % 20000
    found = {"MASTER_ADDR": first_machine(machines) if machines and several else "127.0.0.1", "MASTER_PORT": str(port)}
    return {name: environment.get(name, value) for name, value in found.items()}


def first_machine(machines: str) -> str:
    """The first of a Slurm list: node01 of "node[01-03,07],other"."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", machines).split(",")[0]
