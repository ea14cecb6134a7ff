"""Brings a task's data:  python scripts/prepare_data.py cifar100 [CIFAR100|FashionMNIST ...] [data_dir=data]

A task with data to fetch has `tasks/<task>/prepare.py` with DATA_SETS and prepare(name, root, say); it does nothing if all is there.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import CONFIG_DIR, ROOT, compose_config, one_line_errors
from tasks.engine.errors import UserError


def prepare_task(task: str, names: list[str], root: Path) -> None:
    """Fetches and verifies the named data sets of a task, all of them if none is named.

    Raises UserError for a task or data set that is unknown, and if no source can be reached.
    """
    if not (CONFIG_DIR / "task" / f"{task}.yaml").exists():
        known = ", ".join(sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml")))
        raise UserError(f"task {task!r} is unknown; choose one of {known}")
    task = compose_config([f"task={task}"]).task.name  # gpt2m is of gpt2
    if importlib.util.find_spec(f"tasks.{task}.prepare") is None:
        print(f"{task}: nothing to fetch, its data is computed")
        return
    module = importlib.import_module(f"tasks.{task}.prepare")
    if unknown := set(names) - set(module.DATA_SETS):
        raise UserError(f"data set {', '.join(sorted(unknown))} is unknown to {task}; choose of {', '.join(module.DATA_SETS)}")
    failures = []
    for name in names or module.DATA_SETS:
        try:
            module.prepare(name, root, print)
            print(f"{name}: ready in {root}")
        except UserError as error:  # the other sets may still come
            failures.append(str(error))
    if failures:
        raise UserError("; ".join(failures))


def main(arguments: list[str]) -> None:
    """Parses TASK [DATA_SET ...] [data_dir=...]."""
    options = dict(a.split("=", 1) for a in arguments if "=" in a)
    words = [a for a in arguments if "=" not in a]
    if unknown := set(options) - {"data_dir"}:
        raise UserError(f"unknown option {', '.join(sorted(unknown))}; the option is data_dir")
    if not words:
        raise UserError("name a task, for example: python scripts/prepare_data.py cifar100")
    prepare_task(words[0], words[1:], Path(options.get("data_dir", ROOT / "data")))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
