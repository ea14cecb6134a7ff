"""Download a task's data:  python scripts/prepare_data.py cifar100 FashionMNIST

A task with data to download has `tasks/<task>/prepare.py` with DATA_SETS and prepare(name, root,
say), which does nothing if the data is there. It may have ALIASES, other names of its data sets,
and KEYS, the keys of this command that its `prepare` takes.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import CONFIG_DIR, ROOT, Command, Key, Names, nearest
from tasks.engine.errors import UserError, one_line


def _length(value: str) -> float:
    try:
        length = float(value)
    except ValueError:
        length = -1
    if not 0 <= length < float("inf"):
        raise ValueError("must be a number of mm >= 0")
    return length


COMMAND = Command(
    "scripts/prepare_data.py",
    __doc__,
    Names("NAME", "a task of configs/task/, then its data sets in any case (default: all)", 1, example="cifar100"),
    (
        Key("dataset", "the data sets, separated by commas", without="the names after the task"),
        Key("data_dir", "the folder of the data sets", without="data"),
        Key(
            "source",
            "the folder of a local copy (parquet, arrow or jsonl) of OpenWebText or PubMedQA",
            without="the hub",
        ),
        Key("tolerance", "how many mm an image and its label may be apart (segmentation)", type=_length, without="0.1"),
    ),
)


def prepare_task(task: str, names: list[str], root: Path, keys: Mapping[str, Any] | None = None) -> None:
    """Download and verify the named data sets of a task, or all of them if none is named.
    keys: those of the task's KEYS that are given.
    Raises UserError for an unknown task, data set or key, and if no source can be reached.
    """
    known = sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml"))
    if task not in known:
        raise UserError(f"task {task!r} is unknown{nearest(task, known)}")
    task = compose_config([f"task={task}"]).task.name  # gpt2m belongs to gpt2
    if importlib.util.find_spec(f"tasks.{task}.prepare") is None:
        print(f"{task}: nothing to download, its data is computed")
        return
    module = importlib.import_module(f"tasks.{task}.prepare")
    known_as = {name.lower(): name for name in module.DATA_SETS} | getattr(module, "ALIASES", {})
    if unknown := [name for name in names if name.lower() not in known_as]:
        raise UserError(f"{task} has no data set {unknown[0]}; choose one of {', '.join(module.DATA_SETS)}")
    if foreign := sorted(set(keys or ()) - set(getattr(module, "KEYS", ()))):
        raise UserError(f"{foreign[0]}= is not read by the task {task}; leave it out")
    failures = []
    for name in dict.fromkeys(known_as[name.lower()] for name in names) or module.DATA_SETS:
        try:
            module.prepare(name, root, print, **(keys or {}))
            print(f"{name}: ready in {root}")
        except UserError as error:  # the other data sets may still succeed
            failures.append(str(error))
        except OSError as error:  # a read-only disk, another user's folder
            failures.append(f"{name} cannot be prepared in {root}: {one_line(error)}")
    if failures:
        raise UserError("; ".join(failures))


def data_sets(cfg: DictConfig) -> list[str]:
    """Return the data sets that a run reads. The benchmarks of the task lora are one."""
    return [cfg.task.data.get("name"), *(["Benchmarks"] if cfg.task.get("harness") else [])]


def wanted(configs: Sequence[DictConfig]) -> list[tuple[str, str, str]]:
    """Return task, data set and data_dir of everything that runs read, each once."""
    return list(dict.fromkeys((cfg.task.name, name, cfg.data_dir) for cfg in configs for name in data_sets(cfg)))


def main(arguments: list[str]) -> None:
    """Prepare the data sets of a task."""
    request = COMMAND.parse(arguments)
    task, *names = request.names
    names += [name for name in request.options.get("dataset", "").split(",") if name]
    root = Path(request.options.get("data_dir", ROOT / "data"))
    keys = {key: value for key, value in request.options.items() if key not in ("dataset", "data_dir")}
    prepare_task(task, names, root, keys)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
