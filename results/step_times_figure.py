"""Draw ratios to fused AdamW as dots and quartiles as lines: a panel per shape, a row per method."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

PARTS = {"optimizer_step": ("#D55E00", "o", "optimizer step"), "training_step": ("#0072B2", "s", "whole training step")}


def ratio_figure(data: pd.DataFrame, title: str, footer: str) -> Figure:
    """Draw one panel per measured shape, over a logarithmic axis."""
    shapes = list(dict.fromkeys(data["shape"]))
    methods = list(dict.fromkeys(data["method"]))
    figure = Figure(figsize=(2.6 + 2.1 * max(1, len(shapes)), 1.6 + 0.27 * max(4, len(methods))), layout="constrained")
    for axes, shape in zip(
        figure.subplots(1, max(1, len(shapes)), sharey=True, squeeze=False)[0], shapes, strict=False
    ):
        for part, (colour, marker, label) in PARTS.items():
            chosen = data[(data["part"] == part) & (data["shape"] == shape)]
            places = [
                methods.index(method) + (0.15 if part == "training_step" else -0.15) for method in chosen["method"]
            ]
            if len(chosen):
                axes.hlines(places, chosen["ratio_q1"], chosen["ratio_q3"], color=colour, lw=2, alpha=0.6)
            axes.plot(
                chosen["ratio"], places, marker, color=colour, ms=4.5, label=label if shape == shapes[0] else None
            )
        axes.axvline(1, color="black", lw=0.8, ls="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(shape, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", lw=0.6)
    if len(shapes):
        figure.axes[0].invert_yaxis()  # shared by all panels
        figure.axes[len(shapes) // 2].set_xlabel("multiples of torch's fused AdamW, medians and quartiles", fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(f"{title}\nhere on {footer}", fontsize=9)
    return figure
