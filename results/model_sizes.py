"""Table I.1: the GPT-2 models of the runtime tables, beside the paper's sizes.

It has their parameters and the share that CPR bounds.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from results.evidence.finding import DIFFERENT, SAME, Finding, findings_table, to_csv
from results.figures import draw
from results.files import write
from results.latex import latex
from results.published import FOLDER
from results.step_time_limits import MODELS
from results.table import Table, markdown

NAME = "table_i1"
TITLE = "Table I.1: the GPT-2 models of Tables I.2 and I.3"
FACTS = {
    "scale": "paper, the models' full sizes",
    "seeds, hardware": "none: parameters are counted, nothing is trained or timed",
}
READING = (
    "Counted in the models that training builds, on PyTorch's meta device. Bounded are the matrices that CPR regularizes, those of "
    "attention and MLP; neither the embedding, which is also the output layer, nor biases and normalization. The paper's sizes and counts "
    "are its protocol's; that its Table I.1 lists them is our reading of it."
)


def write_model_sizes(counted: pd.DataFrame, out_dir: Path) -> str:
    """Write table.md, table.csv, table.tex, claims.csv, figure.png and figure.svg. Return the text to
    print.

    Args:
        counted: a row per model with model, width, layers and heads.
            `parameters` counts all elements, a shared tensor once.
            `embedding` counts the elements of the embedding.
            `bounded` counts those in the matrices that CPR regularizes, and `matrices` is the
                number of these.
    """
    data = counted.merge(published(), on="model", suffixes=("", "_paper"))
    findings, main = [judge_sizes(data)], sizes_table(data)
    out_dir.mkdir(parents=True, exist_ok=True)
    facts = "".join(f"- {name}: {fact}\n" for name, fact in (FACTS | {"command": f"`make reproduce-{NAME}`"}).items())
    page = [f"# {TITLE}", "", facts, "![figure](figure.png)", "", markdown(main), ""]
    page += ["## Claims", "", markdown(findings_table(findings)), "", READING, ""]
    write(out_dir / "table.md", "\n".join(page))
    write(out_dir / "table.csv", data.to_csv(index=False))
    write(out_dir / "table.tex", latex([Table("Ours and the paper's sizes", main)], NAME, TITLE))
    write(out_dir / "claims.csv", to_csv(findings))
    draw(sizes_figure(data), out_dir)
    return "\n".join(
        [
            TITLE,
            markdown(main),
            "",
            *(f"{one.text}: {one.outcome} ({one.said})" for one in findings),
            "",
            str(out_dir / "table.md"),
        ]
    )


def published() -> pd.DataFrame:
    """Return the paper's sizes: model, width, layers, heads, and the number of parameters as printed."""
    data = pd.DataFrame(yaml.safe_load((FOLDER / f"{NAME}.yaml").read_text())["rows"])
    return data.assign(parameters=[as_printed(1e6 * millions) for millions in data.pop("mean")])


def as_printed(parameters: float) -> str:
    """Print a number of parameters with the paper's digits: 124M, 1.19B."""
    return f"{parameters / 1e6:.0f}M" if parameters < 1e9 else f"{parameters / 1e9:.2f}B"


def judge_sizes(data: pd.DataFrame) -> Finding:
    """Judge whether every model has the paper's size and, in the paper's digits, its number of parameters."""
    ours = [as_printed(count) for count in data["parameters"]]
    same = all((data[key] == data[f"{key}_paper"]).all() for key in ("width", "layers", "heads"))
    outcome = SAME if same and ours == list(data["parameters_paper"]) else DIFFERENT
    text = f"{', '.join(MODELS[name] for name in data['model'])} have the paper's width, layers, heads and number of parameters"
    return Finding("model-sizes", text, ", ".join(data["parameters_paper"]), outcome, ", ".join(ours))


def sizes_table(data: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model, ours beside the paper's."""
    shares = data["bounded"] / data["parameters"]
    return pd.DataFrame(
        {
            "model": [MODELS[name] for name in data["model"]],
            "width": data["width"].map(str),
            "layers": data["layers"].map(str),
            "heads": data["heads"].map(str),
            "parameters ours": data["parameters"].map("{:,}".format),
            "parameters paper": data["parameters_paper"],
            "matrices bounded": data["matrices"].map(str),
            "parameters bounded": [
                f"{count:,} ({100 * share:.0f} %)" for count, share in zip(data["bounded"], shares, strict=True)
            ],
        }
    )


def parts_of(data: pd.DataFrame) -> list[tuple[str, str, list[float]]]:
    """Return the parts of the models: name, colour, and millions of parameters in each model."""
    rest = data["parameters"] - data["bounded"] - data["embedding"]
    parts = (
        ("bounded by CPR", "#0072B2", data["bounded"]),
        ("embedding", "#E69F00", data["embedding"]),
        ("others", "#555555", rest),
    )
    return [(name, colour, (counts / 1e6).to_list()) for name, colour, counts in parts]


def sizes_figure(data: pd.DataFrame) -> Figure:
    """Draw a stacked bar per model, with the paper's number at its end."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes, names, left = figure.subplots(), [MODELS[name] for name in data["model"]], np.zeros(len(data))
    for label, colour, millions in parts_of(data):
        axes.barh(names, millions, left=left, color=colour, label=label, height=0.6)
        left += millions
    for name, end, printed in zip(names, left, data["parameters_paper"], strict=True):
        axes.annotate(
            f"paper: {printed}", (end, name), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xlim(0, 1.18 * left.max())
    axes.invert_yaxis()
    axes.set_xlabel("parameters, millions")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(TITLE, fontsize=9)
    return figure
