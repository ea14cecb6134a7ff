"""Train one run, or a sweep with -m:  python scripts/train.py task=cifar100 regularizer=adamcpr_ip seed=1

`--help` lists the keys (configs/config.yaml has its text). Exit codes: 0 done, 1 the run
diverged or failed, 2 bad input.
"""

import sys

from scripts.cli import early

if __name__ == "__main__":
    early.importing()


import os
from contextlib import nullcontext

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scripts.cli.common import one_line_errors
from scripts.cli.overrides import as_hydra_takes_them, check_added, check_words
from scripts.cli.parser import CONFIG_DIR
from scripts.sweep.labels import note_in_wandb
from scripts.sweep.multirun import runs_of, show_runs
from scripts.sweep.processes import start_processes, starts_alone
from scripts.sweep.slurm import queue_again_if_asked
from tasks.engine.config import read_config
from tasks.engine.device import enough_devices
from tasks.engine.errors import Held, Interrupted, OutOfMemory, TrainingFailed, Unusable, UserError
from tasks.engine.launch import launched
from tasks.engine.records import has_record, run_folder, run_id
from tasks.engine.run import run
from tasks.engine.terminal import say, shown_once

sweep: list[list[str]] = []  # with -m: the overrides of each run that this process starts
for_cluster: list[DictConfig] = []  # the runs that launcher=slurm trains as jobs
failures: list[TrainingFailed | OutOfMemory | Unusable | Held] = []


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def train(cfg: DictConfig) -> None:
    """Train one configuration and print its result."""
    with one_line_errors():  # inside, because Hydra would print a line of its own first
        note_in_wandb(cfg, None, [word.partition("=")[0] for word in HydraConfig.get().overrides.task])
        if cfg.launcher.name == "slurm":
            if launched().world > 1:
                raise UserError("launcher=slurm submits jobs; leave it out where srun or torchrun starts the processes")
            read_config(cfg)  # refuses a wrong setting before anything is submitted
            for_cluster.append(cfg)
            return
        if cfg.nodes == 1 and starts_alone(read_config(cfg).gpus):  # as torchrun would start this command
            enough_devices(cfg.device, cfg.gpus)
            sys.exit(start_processes([sys.executable, *sys.orig_argv[1:]], cfg.gpus))
        first = launched().rank == 0
        if sweep and first:
            ended = ", which has ended" if has_record(cfg) else ""
            print(f"run {HydraConfig.get().job.num + 1} of {len(sweep)}: {run_id(cfg)}{ended}", flush=True)
        try:
            record = run(cfg)
        except (TrainingFailed, OutOfMemory, Unusable, Held) as failure:
            # The other processes of a run would not hear of these errors.
            if not isinstance(failure, TrainingFailed) and (not sweep or launched().world > 1):
                raise
            failures.append(failure)
            say(f"error: {failure}")
            return
        except Interrupted as interruption:
            queue_again_if_asked(interruption)
            raise
    if not first:
        return
    unit = {record["metric"]["name"]: f" {record['metric']['unit']}".rstrip()} if record["metric"] else {}
    metrics = ", ".join(f"{name} {value:.2f}{unit.get(name, '')}" for name, value in record["metrics"].items())
    took = f"after {record['steps']} steps in {record['seconds']:.0f} s"
    print(f"{record['run_id']}: {metrics} {took}; {run_folder(cfg) / 'record.json'}", flush=True)


def main(arguments: list[str]) -> None:
    """Train a run, or the runs of a sweep. Raises SystemExit if one of them failed."""
    for flag in ("-m", "--multirun"):  # Hydra takes it in no other place
        if flag in arguments:
            arguments = [flag, *(word for word in arguments if word != flag)]
    check_words(arguments)
    check_added(arguments, str(CONFIG_DIR))
    sys.argv[1:] = arguments = as_hydra_takes_them(arguments)
    sweep.extend(runs_of(arguments))
    with shown_once() if sweep else nullcontext():
        train()
    if for_cluster:
        from scripts.sweep.watch import train_on_cluster

        train_on_cluster(for_cluster, "train")
        if not sweep:
            sweep.append([word for word in arguments if not word.startswith("-")])
    all_done = not sweep or launched().rank or show_runs(sweep)
    if failures or not all_done:  # runs on a cluster leave no failure here
        sys.exit(max((failure.exit_code for failure in failures), default=TrainingFailed.exit_code))


if __name__ == "__main__":
    # With this, Hydra raises its errors instead of printing several lines and exiting.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_line_errors():
        main(sys.argv[1:])
