"""Count the parameters of the paper's GPT-2 models for Table I.1:  python scripts/model_sizes.py scale=mini
Takes results_dir= and scale=, which names the folder in results/ but does not change the table. The
models are those of configs/task/gpt2*.yaml at paper scale, built without memory for their
parameters.
"""

import sys
from pathlib import Path

from scripts.cli.arguments import read_arguments
from scripts.cli.common import ROOT, compose_config, one_line_errors
from scripts.readme import SCALES
from tasks.engine.errors import UserError

TASKS = {"gpt2s": "gpt2", "gpt2m": "gpt2m", "gpt2l": "gpt2l", "gpt2xl": "gpt2xl"}


def main(arguments: list[str]) -> None:
    """Write results/<scale>/table_i1/."""
    request = read_arguments(arguments)
    scale, root = request.options["scale"], Path(request.options.get("results_dir", ROOT / "results"))
    if request.names or set(request.given) - {"scale", "results_dir"}:
        raise UserError("model_sizes.py takes scale= and results_dir= alone: nothing is trained")
    if scale not in SCALES:
        raise UserError(f"scale={scale!r} is unknown; choose one of {', '.join(SCALES)}")
    import pandas as pd

    from results.model_sizes import NAME, write_model_sizes

    counted = pd.DataFrame([{"model": model, **count(task)} for model, task in TASKS.items()])
    print(write_model_sizes(counted, root / scale / NAME))


def count(task: str) -> dict[str, int]:
    """Return the size and the parameter counts of the model that a task trains at paper scale."""
    import torch

    from cpr import regularized_names
    from tasks.engine.config import read_config
    from tasks.gpt2.config import Gpt2Task
    from tasks.gpt2.model import GPT2

    cfg: Gpt2Task = read_config(compose_config([f"task={task}", "scale=paper"])).task
    with torch.device("meta"):
        model = GPT2(cfg.model, cfg.loss_chunk)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    bounded = regularized_names(model)
    return {
        **{key: getattr(cfg.model, key) for key in ("width", "layers", "heads")},
        "parameters": sum(sizes.values()),
        "embedding": sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Embedding)),
        "matrices": len(bounded),
        "bounded": sum(sizes[name] for name in bounded),
    }


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
