"""Train one run, or a sweep with -m:  python scripts/train.py task=cifar100 regularizer=adamcpr_ip seed=1

`--help` lists the keys (configs/config.yaml has its text). Exit codes: 0 done, 1 the run
diverged or failed, 2 bad input.
"""

import sys

from scripts.cli import early

if __name__ == "__main__":
    early.importing()


import os

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scripts.cli.common import one_line_errors
from scripts.cli.overrides import check_added, check_words
from scripts.cli.parser import CONFIG_DIR
from scripts.sweep.labels import note_in_wandb
from scripts.sweep.slurm import queue_again_if_asked
from tasks.engine.errors import Interrupted, TrainingFailed
from tasks.engine.launch import launched
from tasks.engine.records import run_folder
from tasks.engine.run import run
from tasks.engine.terminal import say

failures: list[str] = []


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def train(cfg: DictConfig) -> None:
    """Train one configuration and print its result."""
    with one_line_errors():  # inside, because Hydra would print a line of its own first
        note_in_wandb(cfg, None, [word.partition("=")[0] for word in HydraConfig.get().overrides.task])
        try:
            record = run(cfg)
        except TrainingFailed as failure:  # it is on record, and the sweep continues
            failures.append(str(failure))
            say(f"error: {failure}")
            return
        except Interrupted as interruption:
            queue_again_if_asked(interruption)
            raise
    if launched().rank:
        return
    unit = {record["metric"]["name"]: f" {record['metric']['unit']}".rstrip()} if record["metric"] else {}
    metrics = ", ".join(f"{name} {value:.2f}{unit.get(name, '')}" for name, value in record["metrics"].items())
    print(
        f"{record['run_id']}: {metrics} after {record['steps']} steps in {record['seconds']:.0f} s; {run_folder(cfg) / 'record.json'}"
    )


if __name__ == "__main__":
    # With this, Hydra raises its errors instead of printing several lines and exiting.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_line_errors():
        check_words(sys.argv[1:])
        check_added(sys.argv[1:], str(CONFIG_DIR))
        train()
    if failures:
        sys.exit(TrainingFailed.exit_code)
