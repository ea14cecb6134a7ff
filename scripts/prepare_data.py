"""Brings a task's data:  python scripts/prepare_data.py cifar100 [CIFAR100|FashionMNIST] [data_dir=data]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import ROOT, one_line_errors
from tasks.cifar100.prepare import prepare
from tasks.engine.errors import UserError


def main(arguments: list[str]) -> None:
    """Prepares the named sets, or all of the task."""
    options = dict(a.split("=", 1) for a in arguments if "=" in a)
    words = [a for a in arguments if "=" not in a]
    task, names = (words[0] if words else ""), words[1:]
    if task == "grokking":
        print("grokking: nothing to fetch, its data is computed")
    elif task == "cifar100":
        for name in names or ["CIFAR100", "FashionMNIST"]:
            prepare(name, Path(options.get("data_dir", ROOT / "data")), print)
            print(f"{name}: ready")
    else:
        raise UserError(f"task {task!r} is unknown; choose cifar100 or grokking")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
