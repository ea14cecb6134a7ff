"""Count the parameters of the paper's GPT-2 models for Table I.1:  python scripts/model_sizes.py scale=mini
Writes results/<scale>/table_i1/, which is the same at every scale. The models are those of
configs/task/gpt2*.yaml at paper scale, built without memory for their parameters. Trains nothing.
"""

import sys
from pathlib import Path

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import RESULTS_DIR, ROOT, SCALE, Command

COMMAND = Command("scripts/model_sizes.py", __doc__, keys=(SCALE, RESULTS_DIR))
TASKS = {"gpt2s": "gpt2", "gpt2m": "gpt2m", "gpt2l": "gpt2l", "gpt2xl": "gpt2xl"}


def main(arguments: list[str]) -> None:
    """Write results/<scale>/table_i1/."""
    options = COMMAND.parse(arguments).options
    scale, root = options["scale"], Path(options.get("results_dir", ROOT / "results"))
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
