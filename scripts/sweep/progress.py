"""One progress bar over all runs of a command, in seconds of expected work.

Runs of different tasks have steps of different lengths. A bar that counts steps would be wrong about
the time left as soon as the next task begins.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Self

from omegaconf import DictConfig
from tqdm import tqdm

from tasks.engine import records

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Progress:
    """A bar for `run_all`. Use it as a context manager.

    Args:
        title: the words before the bar.
        configs: all runs of the command that are still to be trained.
        cost: the expected time of one run in seconds. It need not be right, only in proportion.
        shown: False for a bar that counts and is never drawn.

    Attributes:
        seconds: the expected time of what is done.
        total: the expected time of everything.
    """

    def __init__(
        self, title: str, configs: Sequence[DictConfig], cost: Callable[[DictConfig], float], shown: bool = True
    ) -> None:
        self._cost, self._begun = cost, set[str]()
        self._to_come = {records.run_id(cfg): cost(cfg) for cfg in configs}
        self.total, self.seconds = sum(self._to_come.values()), 0.0
        self._before = self._per_step = 0.0
        interval = 0.5 if sys.stderr.isatty() else 30.0
        # smoothing=0: the mean pace since the start, because the pace of a few seconds jumps when runs begin and end
        self._bar = tqdm(
            total=self.total, desc=title, bar_format=FORMAT, smoothing=0, mininterval=interval,
            dynamic_ncols=True, disable=not shown,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, configs: Sequence[DictConfig]) -> None:
        """Count the steps of these runs from now on.

        Runs that were not expected, such as finalists, make the bar longer. After a lost worker the same
        runs begin again, without those that have ended.
        """
        own = {records.run_id(cfg): self._cost(cfg) for cfg in configs}
        self.total += sum(own[run_id] for run_id in own.keys() - self._to_come.keys() - self._begun)
        self._bar.total = self.total
        self._begun |= own.keys()
        self._to_come = {run_id: cost for run_id, cost in self._to_come.items() if run_id not in own}
        here = sum(own.values())
        self._before = self.total - here - sum(self._to_come.values())
        self._per_step = here / max(1, sum(cfg.num_steps for cfg in configs))

    def update(self, steps: int, ended: int, count: int) -> None:
        """Show that the runs of the last `begin` have done `steps` steps in all, and that `ended` of `count` have ended."""
        self._bar.set_postfix_str(f"{ended} of {count} runs", refresh=False)
        self.seconds = self._before + steps * self._per_step
        self._bar.update(self.seconds - self._bar.n)
