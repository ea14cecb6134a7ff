"""Parse the command line of a command:  NAME ... key=value ... --flag
A command declares what it takes. `--help` and docs/reference/command-line.md are made from the
declaration.
"""

import argparse
import functools
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.engine.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG_DIR = ROOT / "configs"
GROUPS = ("task", "regularizer", "scale", "launcher", "logging")


@dataclass(frozen=True)
class Key:
    """A `key=value` argument.
    default: its value if it is not given. A key without one is then missing in `Request.options`.
    without: what happens without the key, in words, if it has no default.
    type: converts the value. Raises ValueError with what the value must be.
    choices: the values that are allowed, if they are few.
    """

    name: str
    about: str
    default: Any = None
    without: str = ""
    type: Callable[[str], Any] = str
    choices: Sequence[str] = ()

    def value_of(self, given: str) -> Any:
        """Return the converted value. Raises UserError if it is not allowed."""
        if self.choices and given not in self.choices:
            raise UserError(f"{self.name}={given} is unknown{nearest(given, self.choices)}")
        try:
            return self.type(given)
        except ValueError as error:
            raise UserError(f"{self.name}={given} {error}") from None


@dataclass(frozen=True)
class Names:
    """The arguments of a command that are neither keys nor flags. `example` is a valid command line."""

    metavar: str
    about: str
    least: int = 0
    most: int | None = None
    example: str = ""


@dataclass(frozen=True)
class Request:
    """A parsed command line.
    given: every key=value, as text.
    options: the command's own keys, converted and with their defaults.
    overrides: the keys of train.py.
    flags: the flags, without their dashes.
    """

    names: list[str]
    given: dict[str, str]
    options: dict[str, Any]
    overrides: dict[str, str]
    flags: set[str]


@dataclass(frozen=True)
class Command:
    """What a command takes.
    script: its file, from the repository's folder.
    about: the text of `--help`.
    flags: what each flag does.
    train_keys: whether every key of train.py is a key of the command.
    refused: why certain keys of train.py are not.
    """

    script: str
    about: str
    names: Names | None = None
    keys: Sequence[Key] = ()
    flags: dict[str, str] = field(default_factory=dict)
    train_keys: bool = False
    refused: dict[str, str] = field(default_factory=dict)

    def parse(self, arguments: Sequence[str]) -> Request:
        """Return the request. `--help` prints the help and ends the program.
        Raises UserError for an argument that the command does not take.
        """
        dashed = [argument for argument in arguments if argument.startswith("-")]
        plain = [argument for argument in arguments if not argument.startswith("-")]
        for argument in dashed:
            flag, equals, _ = argument.partition("=")
            if equals and flag.lstrip("-") in (*self.flags, "help", "h"):
                raise UserError(f"{flag} takes no value; write {flag}")
        parsed, unknown = self.parser().parse_known_args(dashed)
        if unknown:
            raise UserError(self._unknown_flag(unknown[0]))
        given = dict(argument.split("=", 1) for argument in plain if "=" in argument)
        names = [argument for argument in plain if "=" not in argument]
        self._check_names(names)
        own = {key.name: key for key in self.keys}
        overrides = {name: value for name, value in given.items() if name not in own}
        for name in overrides:
            self._check_override(name)
        options = {key.name: key.default for key in self.keys if key.default is not None}
        options |= {name: own[name].value_of(value) for name, value in given.items() if name in own}
        flags = {flag for flag in self.flags if getattr(parsed, flag.replace("-", "_"))}
        return Request(names, given, options, overrides, flags)

    def parser(self) -> argparse.ArgumentParser:
        """Return argparse's parser, which reads the flags and writes the help."""
        parser = argparse.ArgumentParser(
            usage=self.usage(),
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        if self.names is not None:
            names = parser.add_argument_group("names")
            names.add_argument("names", nargs="*", metavar=self.names.metavar, help=_escaped(self.names.about))
        keys = parser.add_argument_group("keys")
        for key in self.keys:
            without = str(key.default) if key.default is not None else key.without
            about = f"{key.about} (default: {without})" if without else key.about
            values = "|".join(key.choices) or "VALUE"
            keys.add_argument(key.name, nargs="?", metavar=f"{key.name}={values}", help=_escaped(about))
        if self.train_keys:
            listed = [name for name in train_keys() if name not in (*self.refused, *(key.name for key in self.keys))]
            listed += [f"{group}.NAME" for group in GROUPS if group != "scale"]
            about = textwrap.fill(
                f"{', '.join(listed)}. python scripts/train.py --help lists them with their values.", 96
            )
            parser.add_argument_group("keys of train.py, for every run", about)
        flags = parser.add_argument_group("flags")
        for flag, about in self.flags.items():
            flags.add_argument(f"--{flag}", action="store_true", help=_escaped(about))
        flags.add_argument("-h", "--help", action="help", help="print this text and do nothing else")
        return parser

    def usage(self) -> str:
        """Return the form of the command line."""
        parts = ["python", self.script]
        if self.names is not None:
            parts += [self.names.metavar] * self.names.least
            parts += [f"[{self.names.metavar} ...]"] * (self.names.most != self.names.least)
        parts += ["[key=value ...]"] * bool(self.keys or self.train_keys)
        return " ".join([*parts, *(f"[--{flag}]" for flag in self.flags)])

    def _check_names(self, names: Sequence[str]) -> None:
        known = [key.name for key in self.keys]
        if names and self.names is None:
            what = f"write {names[0]}=VALUE" if names[0] in known else f"{self.script} takes {_listed(known)}"
            raise UserError(f"{names[0]} is unknown; {what}")
        if self.names is not None and not self.names.least <= len(names) <= (self.names.most or len(names)):
            raise UserError(f"name {self.names.about}, for example: python {self.script} {self.names.example}")

    def _check_override(self, name: str) -> None:
        """Raise UserError for a key that neither the command nor any run has.
        Hydra checks the rest of a key with dots when it composes the configuration.
        """
        bare = name.lstrip("+~")
        if bare in self.refused:
            raise UserError(f"{name}= {self.refused[bare]}")
        if (flag := bare.replace("_", "-")) in self.flags:
            raise UserError(f"{name}= is a flag, which takes no value; write --{flag}")
        known = [key.name for key in self.keys] + [*train_keys(), "hydra"] * self.train_keys
        if not self.train_keys or re.split(r"[./@]", bare)[0] not in known:
            raise UserError(f"{bare} is unknown{nearest(bare, known) if known else f'; {self.script} takes no keys'}")

    def _unknown_flag(self, flag: str) -> str:
        bare = flag.lstrip("-")
        if "=" in bare and bare.partition("=")[0] in [key.name for key in self.keys]:
            return f"{flag} is unknown; write {bare}"
        known = [f"--{name}" for name in self.flags]
        return f"{flag} is unknown{nearest(flag, known) if known else '; the only flag is --help'}"


@functools.cache
def train_keys() -> list[str]:
    """Return the keys of train.py up to the first dot, read without Hydra."""
    files = [CONFIG_DIR / "config.yaml", *CONFIG_DIR.glob("scale/**/*.yaml"), *CONFIG_DIR.glob("launcher/*.yaml")]
    found = {name for path in files for name in re.findall(r"^(\w+):", path.read_text(), re.MULTILINE)}
    return sorted((found | set(GROUPS)) - {"defaults", "hydra"})


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown word (results/artefact_file.py)."""
    from results import artefact_file  # slow to import, and --help does not need it

    return artefact_file.nearest(word, known)


def whole(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """Return a `Key.type` for whole numbers in a range."""

    def convert(given: str) -> int:
        if not (given.isascii() and given.isdigit()) or int(given) < least or (most is not None and int(given) > most):
            raise ValueError(f"must be a whole number >= {least}" + (f" and <= {most}" if most is not None else ""))
        return int(given)

    return convert


def several_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a `Key.type` for names separated by commas."""

    def convert(given: str) -> list[str]:
        names = list(dict.fromkeys(given.split(",")))
        if unknown := [name for name in names if name not in choices]:
            raise ValueError(f"has the unknown name {unknown[0]}{nearest(unknown[0], choices)}")
        return names

    return convert


def _listed(keys: Sequence[str]) -> str:
    return "no names and no keys" if not keys else f"keys alone: {', '.join(f'{key}=' for key in keys)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


SCALE = Key(
    "scale",
    "mini is small data on CPU cores, paper is the paper's protocol on GPUs",
    "mini",
    choices=sorted({path.stem for path in CONFIG_DIR.glob("scale/*.yaml")} - {"rehearsal"}),
)
RESULTS_DIR = Key("results_dir", "the folder of tables and figures", without="results")
RUNS_DIR = Key("runs_dir", "the folder of the runs", "runs")
RECORDS = Key(
    "records",
    "committed: build from results/<scale>/records alone, without runs_dir, data and training",
    "runs",
    choices=("runs", "committed"),
)
# The keys of reproduce.py and of the commands that look at its runs.
SWEEP_KEYS = (
    replace(SCALE, choices=[*SCALE.choices, "rehearsal"]),  # its results are never committed
    Key("seeds", "seeds such as 1,2,3 in place of the artefact's own", without="the artefact's"),
    Key(
        "cells",
        "best: of a heat map, only each method's best cell by the published values",
        "all",
        choices=("all", "best"),
    ),
    Key(
        "finalists",
        "fresh seeds on which each method's best setting is trained again and compared",
        without="the artefact's, or none with seeds=",
        type=whole(0),
    ),
    Key("jobs", "runs at a time on this machine", without="one per core, or one per GPU", type=whole(1)),
    Key("wait", "with launcher=slurm: return when the runs have ended", "false", choices=("true", "false")),
    Key(
        "results_dir",
        RESULTS_DIR.about,
        without="results, or <runs_dir>/results if a key changes what the artefact asks for",
    ),
)
_TRAIN = "python scripts/train.py -m task=TASK regularizer=NAME,NAME seed=1,2,3"
CHOSEN = {
    "task": f"is chosen by the artefact's grids (configs/artefact/); to train another one: {_TRAIN}",
    "regularizer": f"is chosen by the artefact's grids (configs/artefact/); to train certain ones: {_TRAIN}",
    "seed": "is chosen by the artefact; write seeds=1,2 to choose seeds",
}


def sweep_command(
    script: str, about: str, names: Names, keys: Sequence[Key] = (), flags: dict[str, str] | None = None
) -> Command:
    """Return a command that takes the keys of reproduce.py."""
    return Command(script, about, names, (*SWEEP_KEYS, *keys), flags or {}, train_keys=True, refused=CHOSEN)
