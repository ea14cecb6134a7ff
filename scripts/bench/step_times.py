"""Measure Tables I.2 and I.3, time and memory of optimizer steps and training steps:
    make bench ROUNDS=15 SHAPES=gpt2s,toy DEVICE=cuda

With make, the keys are in upper case. `note` is not available there.

Only the GPT-2s have a whole training step. The others are measured for Table I.2 alone.
SHAPES=gpt2s,vitb32,deits,resnet50 also gives the medians over these four, which the package
promises limits for.

Each shape's times are saved in rounds.json beside the tables as soon as they are measured. A later
call replaces the shapes that it measures.
"""

import sys

from scripts.bench.options import KEYS, options_of
from scripts.cli.common import one_line_errors
from scripts.cli.parser import Command

COMMAND = Command("scripts/bench/step_times.py", __doc__, keys=KEYS)


def main(arguments: list[str]) -> None:
    """Measure or rebuild the tables, and print them."""
    options = options_of(COMMAND.parse(arguments).options)
    import torch

    from scripts.bench.rounds import measure_all, write_table

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rebuild = [write_table(table, options, {}) for table in options.tables] if options.rebuild else None
    print("\n\n".join(rebuild or measure_all(options)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
