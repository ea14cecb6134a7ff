"""Build the figure and the three sentences of `make demo` from its two runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.line_labels import LineEnd, name_lines
from results.runs import Run
from results.series import first_step, series, trace

COLOURS = ("#D55E00", "#0072B2")  # Okabe and Ito
METRIC, TARGET = "validation_accuracy", 95.0
MATRICES = ("query.weight", "mlp_in.weight")


def demo_figure(runs: Mapping[str, Run], steps_per_epoch: int) -> Figure:
    """Draw validation accuracy beside R, κ and λ of two matrices.

    Args:
        runs: the two runs by their names in the legend. The second one is CPR's.
        steps_per_epoch: steps in one unit of the x axes.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    axes, ends = figure.add_subplot(grid[:, :2]), []
    for (title, run), colour in zip(runs.items(), COLOURS, strict=True):
        steps, values = series(run, METRIC)
        axes.plot([step / steps_per_epoch for step in steps], values, color=colour, lw=2)
        ends.append(LineEnd(steps[-1] / steps_per_epoch, values[-1], title, colour))
    axes.axhline(TARGET, color="black", lw=0.8, ls="--")
    axes.set(title="Validation accuracy, %", xlabel="epoch", ylim=(0, 108))
    bounded = list(runs.values())[1]
    for column, name in enumerate(MATRICES):
        sizes, forces = figure.add_subplot(grid[0, 2 + column]), figure.add_subplot(grid[1, 2 + column])
        for run, colour in zip(runs.values(), COLOURS, strict=True):
            _draw(sizes, run, name, "R", steps_per_epoch, color=colour)
        _draw(sizes, bounded, name, "kappa", steps_per_epoch, color="black", ls="--", lw=1)
        _draw(forces, bounded, name, "lambda", steps_per_epoch, color=COLOURS[1])
        sizes.set(title=name.removesuffix(".weight"), ylabel="R, and κ (dashed)" if column == 0 else "", ylim=(0, None))
        forces.set(xlabel="epoch", ylabel="λ" if column == 0 else "", ylim=(0, None))
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
        one.title.set_fontsize(9)
    figure.suptitle("Grokking, a + b mod 113, one seed: a bound on every matrix in place of weight decay", fontsize=11)
    name_lines(figure, axes, ends)
    return figure


def _draw(axes: Axes, run: Run, matrix: str, quantity: str, steps_per_epoch: int, **style: Any) -> None:
    steps, values = trace(run, matrix, quantity)
    axes.plot([step / steps_per_epoch for step in steps], values, **style)


def findings(runs: Mapping[str, Run], steps_per_epoch: int) -> Sequence[str]:
    """Return three sentences: when each run generalizes, how much a matrix grew, and what one seed can't say."""
    reached, sizes = [], []
    for title, run in runs.items():
        step = first_step(run, METRIC, TARGET, higher=True)
        when = "in no epoch" if step is None else f"at epoch {step / steps_per_epoch:g}"
        reached.append(f"{title}: {when} of {run.num_steps // steps_per_epoch}")
        values = trace(run, MATRICES[0], "R")[1]
        sizes.append(f"{max(values) / values[0]:.1f} times with {title}")
    return (
        f"{TARGET:g} % validation accuracy is reached with {'; '.join(reached)}.",
        f"The size R of {MATRICES[0]} grows by at most {', '.join(sizes)}; its bound is the dashed line.",
        "One seed shows how it works, not how reliably: these epochs differ between seeds.",
    )
