"""Make a small fake data set for a task, in its owner's exact format:  python scripts/fake_data.py imagenet

It rehearses the paper's scale without the real data (scripts/rehearse.py). A file FAKE marks the
folder: only scale=rehearsal trains on it. Needs no network, and makes the same files every time.

A task with such data has `tasks/<task>/fake.py` with FAKES: functions of the data folder by data set.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

from scripts.cli.common import compose_config, one_line_errors
from scripts.cli.parser import CONFIG_DIR, ROOT, Command, Key, Names, nearest
from tasks.engine import fake
from tasks.engine.errors import UserError

FOLDER = ROOT / "build" / "fake"
COMMAND = Command(
    "scripts/fake_data.py",
    __doc__,
    Names("NAME", "a task of configs/task/, then data sets that it can read (default: all)", 1, example="imagenet"),
    (Key("data_dir", "the folder of the fake data", without="build/fake"),),
)


def make(task: str, names: list[str], root: Path) -> list[str]:
    """Make the named fake data sets of a task, or all of them if none is named. Return those that were made.

    Raises:
        UserError: the task or a data set is unknown, `root` holds real data, or a package is missing.
    """
    known_tasks = sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml"))
    if task not in known_tasks:
        raise UserError(f"task {task!r} is unknown{nearest(task, known_tasks)}")
    task = compose_config([f"task={task}"]).task.name
    fake.begin(root)
    if importlib.util.find_spec(f"tasks.{task}.fake") is None:
        print(f"{task}: nothing to make, its data is computed")
        return []
    known = importlib.import_module(f"tasks.{task}.fake").FAKES
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{task} has no fake data set {unknown[0]}{nearest(unknown[0], list(known))}")
    for name in names or known:
        known[name](root)
        print(f"FAKE {name}: in {root}")
    return list(names or known)


def main(arguments: list[str]) -> None:
    """Make the fake data sets of a task."""
    request = COMMAND.parse(arguments)
    task, *names = request.names
    make(task, names, Path(request.options.get("data_dir", FOLDER)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
