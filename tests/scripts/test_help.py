"""--help of every command: it lists what the command takes, in both forms of the command line, and changes no file."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, call_forked, is_one_line
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scripts.cli.parser import Command, Key, Names, train_keys, whole
from tasks.engine.errors import UserError

SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in (*sorted(ROOT.glob("scripts/*.py")), *sorted(ROOT.glob("scripts/bench/*.py")))
    if "__main__" in path.read_text()
]


def declared(script: str) -> Command:
    return importlib.import_module(module(script)).COMMAND


def module(script: str) -> str:
    return script.removesuffix(".py").replace("/", ".")


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and its time."""
    about = {str(path): path.stat() for path in [folder, *folder.rglob("*")]}
    return {path: (found.st_size, found.st_mtime_ns) for path, found in about.items()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository's code and its committed results, where a command might write."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("cpr", "tasks", "scripts", "configs", "results"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_what_the_command_takes_and_changes_nothing(copy, script):
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    before, texts = state(copy), []
    for form in ([script], ["-m", module(script)]):
        done = subprocess.run(
            [sys.executable, *form, "--help"], cwd=copy, env=environment, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")
        texts.append(done.stdout)
    assert state(copy) == before
    assert texts[0] == texts[1]
    if script != "scripts/train.py":  # its help is Hydra's
        takes = declared(script)
        wanted = [*(f"{key.name}=" for key in takes.keys), *(f"--{flag}" for flag in takes.flags), "--help"]
        wanted += [takes.names.metavar] if takes.names else []
        wanted += [name for name in train_keys() if name not in takes.refused] if takes.train_keys else []
        assert not [name for name in wanted if name not in texts[0]]


def test_the_help_of_train_has_every_group_choice_and_key():
    text = call_forked("train.py", "--help").stdout
    assert "python scripts/train.py task=" in text and "Hydra" not in text
    for group in ("task", "regularizer", "scale", "launcher", "logging"):
        (line,) = re.findall(rf"^{group}: (.*, .*)$", text, re.MULTILINE)
        assert line.split(", ") == sorted(path.stem for path in ROOT.glob(f"configs/{group}/*.yaml"))
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", [])
    assert OmegaConf.to_yaml(config).strip() in text
    assert set(train_keys()) == {*config, "threads", "device", "resources"}  # of some scales


def test_the_help_of_train_names_the_command_that_resolves_its_values():
    (given,) = re.findall(
        r"python scripts/train.py (.* --cfg job --resolve)$", call_forked("train.py", "--help").stdout, re.M
    )
    done = call_forked("train.py", *given.split())
    resolved = OmegaConf.create(done.stdout)
    assert done.returncode == 0 and "${" not in done.stdout
    assert (resolved.lr, resolved.num_steps) == (resolved.task.lr, resolved.task.num_steps)


@pytest.mark.parametrize("arguments", [["--help"], ["figure2", "scale=mini", "-h"]])
def test_help_needs_no_slow_library(arguments):
    code = (
        "import sys\n"
        "from scripts import status\n"
        "try:\n"
        f"    status.main({arguments})\n"
        "except SystemExit as end:\n"
        "    sys.exit(bool(end.code or {'torch', 'matplotlib', 'scipy'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


# --- what the parser refuses

EXAMPLE = Command(
    "scripts/example.py",
    "An example.",
    Names("RUN", "a run", 1, 2, "adamw-s1"),
    (Key("rounds", "rounds", 3, type=whole(2)), Key("mode", "a mode", choices=("fast", "slow"))),
    {"dry-run": "start nothing"},
)
PASSES_ON = Command(
    "scripts/example.py", "An example.", keys=EXAMPLE.keys, train_keys=True, refused={"seed": "is fixed"}
)


def test_arguments_come_in_any_order_and_values_are_converted():
    request = EXAMPLE.parse(["mode=fast", "one", "--dry-run", "two", "rounds=5"])
    assert (request.names, request.options, request.flags) == (
        ["one", "two"],
        {"rounds": 5, "mode": "fast"},
        {"dry-run"},
    )
    assert EXAMPLE.parse(["one"]).options == {"rounds": 3}
    request = PASSES_ON.parse(["lr=1e-2", "+regularizer.eps=1e-6", "rounds=4"])
    assert request.overrides == {"lr": "1e-2", "+regularizer.eps": "1e-6"}
    assert request.given == request.overrides | {"rounds": "4"}


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (EXAMPLE, ["one", "round=5"], "round is unknown; did you mean rounds?"),
        (EXAMPLE, ["one", "lr=1"], "lr is unknown; choose one of rounds, mode"),
        (EXAMPLE, ["one", "rounds=1"], "rounds=1 must be a whole number >= 2"),
        (EXAMPLE, ["one", "rounds=x"], "rounds=x must be a whole number >= 2"),
        (EXAMPLE, ["one", "mode=fas"], "mode=fas is unknown; did you mean fast?"),
        (EXAMPLE, ["one", "--dry"], "--dry is unknown; did you mean --dry-run?"),
        (EXAMPLE, ["one", "--rounds=3"], "--rounds=3 is unknown; write rounds=3"),
        (EXAMPLE, ["one", "dry-run=true"], "dry-run= is a flag, which takes no value; write --dry-run"),
        (EXAMPLE, ["one", "dry_run=true"], "dry_run= is a flag, which takes no value; write --dry-run"),
        (EXAMPLE, ["one", "--dry-run=1"], "--dry-run takes no value; write --dry-run"),
        (EXAMPLE, ["--help=1"], "--help takes no value; write --help"),
        (EXAMPLE, [], "name a run, for example: python scripts/example.py adamw-s1"),
        (EXAMPLE, ["one", "two", "three"], "name a run, for example: python scripts/example.py adamw-s1"),
        (PASSES_ON, ["rounds"], "rounds is unknown; write rounds=VALUE"),
        (PASSES_ON, ["num_step=3"], "num_step is unknown; did you mean num_steps?"),
        (PASSES_ON, ["round=3"], "round is unknown; did you mean rounds?"),
        (PASSES_ON, ["seed=3"], "seed= is fixed"),
        (Command("scripts/example.py", ""), ["--yes"], "--yes is unknown; the only flag is --help"),
        (Command("scripts/example.py", ""), ["a=1"], "a is unknown; scripts/example.py takes no keys"),
        (Command("scripts/example.py", ""), ["a"], "a is unknown; scripts/example.py takes no names and no keys"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_command_does_not_take_is_said_with_the_nearest_that_it_takes(command, arguments, said):
    with pytest.raises(UserError) as error:
        command.parse(arguments)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("reproduce.py", ("grokking", "num_steps=abc", "--dry-run"), ("num_steps=abc must be a whole number >= 1",)),
        ("status.py", ("grokking", "task.batch_size=0"), ("task.batch_size=0 must be a whole number >= 1",)),
        ("model_sizes.py", ("scale=mni",), ("scale=mni is unknown; did you mean mini?",)),
        ("prose.py", ("script",), ("script is not a folder", "did you mean scripts?")),
        ("bench/step_times.py", ("shapes=toy,gpt5",), ("has the unknown name gpt5", "gpt2")),
        ("bench/sweeps.py", ("runs=many",), ("runs=many must be a whole number >= 1",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_wrong_value_is_one_line_and_exit_code_2(script, arguments, words):
    done = call_forked(script, *arguments)
    assert done.returncode == 2
    is_one_line(done, *words)
