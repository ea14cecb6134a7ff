"""What a run shows: the regularized set at its start, a progress bar with ETA, and wandb on request."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn
from tqdm import tqdm

from cpr import regularized_names
from tasks.engine.config import Config
from tasks.engine.errors import UserError, one_line
from tasks.engine.layer_groups import summary
from tasks.engine.terminal import warn


def regularized_set(model: nn.Module, reg_embedding: bool) -> str:
    """Return which parameters the regularizer acts on: counts, then names."""
    names = regularized_names(model, reg_embedding)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    total, chosen = sum(sizes.values()), sum(sizes[name] for name in names)
    return f"regularized: {len(names)} of {len(sizes)} tensors, {chosen:,} of {total:,} parameters: {', '.join(names)}"


def progress_bar(cfg: Config, start: int, run_id: str, first: bool = True) -> tqdm:
    """Return a bar with steps done, steps/s and time left. Quiet runs and later processes show none."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=cfg.num_steps,
        initial=start,
        unit="step",
        desc=run_id,
        disable=cfg.quiet or not first,
        mininterval=interval,
        dynamic_ncols=True,
    )


def show_speed(bar: tqdm, speed: dict[str, float]) -> None:
    """Show tokens or images per second, and MFU, behind the bar."""
    parts = [
        f"{value:.1%} MFU" if name == "mfu" else f"{value:,.0f} {name.removesuffix('_per_second')}/s"
        for name, value in speed.items()
    ]
    if parts:
        bar.set_postfix_str(", ".join(parts), refresh=False)


class WandbLog:
    """Send rows to wandb, offline or online. Do nothing with `logging=none` or outside the first process.

    An error of wandb (unreachable, its helper process killed, a lost connection) causes one
    warning, and training continues without it.

    Args:
        groups: the layer groups of the matrices whose sizes are sent (`layer_groups.py`).
    """

    def __init__(
        self, cfg: Config, run_id: str, folder: Path, groups: Mapping[str, Sequence[int]], first: bool = True
    ) -> None:
        self._run, self._groups = None, groups
        if cfg.logging.name == "none" or not first:
            return
        try:
            import wandb
        except ImportError as error:
            raise UserError("logging=wandb needs the package wandb: pip install '.[suite]'") from error
        config: dict[str, Any] = OmegaConf.to_container(cfg.source, resolve=True)  # type: ignore[assignment]
        try:
            self._run = wandb.init(
                project=cfg.logging.project,
                mode=cfg.logging.mode,
                id=run_id,
                name=run_name(cfg),
                group=cfg.logging.artefact or cfg.task.name,
                tags=[*filter(None, (cfg.task.name, cfg.scale, cfg.regularizer.name, cfg.logging.artefact))],
                resume="allow",
                dir=folder,
                config=config,
                settings=wandb.Settings(silent=cfg.quiet),
            )
        # wandb is unreachable, but may be back for the next run.
        except wandb.errors.CommError as error:
            warn(f"wandb is not reached ({one_line(error)}); the run continues without it")
        except wandb.Error as error:
            raise UserError(
                f"wandb cannot start ({error}); log in with `wandb login`, or set logging.mode=offline"
            ) from error

    def append(self, row: Mapping[str, Any]) -> None:
        self._try(lambda run: run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"]))

    def append_sizes(self, step: int, sizes: Mapping[str, Sequence[float | None]]) -> None:
        """Send the summary of R, κ and λ per layer group."""
        if self._run is not None:
            self.append({"step": step} | summary(sizes, self._groups))

    def close(self, failed: bool) -> None:
        """End the run in wandb, which shows it as finished or failed."""
        self._try(lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _try(self, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # wandb's own, and those of its sockets and pipes
            warn(f"wandb fails ({one_line(error)}); the run continues without it")
            self._run = None


def run_name(cfg: Config) -> str:
    """Return a name for people, such as "adamcpr_ws lr=0.001 warm_start=2x s1"."""
    return f"{cfg.regularizer.name} {cfg.logging.label or f'lr={cfg.lr:g}'} s{cfg.seed}"
