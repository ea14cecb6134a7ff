"""Keys given on the command line: report a faulty one in one line with the nearest known key."""

import functools
import re
import shlex
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from scripts.cli.parser import CONFIG_DIR, GROUPS, nearest
from tasks.engine.errors import UserError

# Arguments of other libraries that a file leaves at their defaults: of optimizers, and of timm's and open_clip's
# models. Those check them.
ADDABLE = ("regularizer.", "task.model.arguments.", "task.small.shape.", "hydra.", "hydra/")
FREE = ("launcher.sbatch.", "launcher.env.")  # sections that take any key
# The keys of Hydra's launcher for Slurm that have another name in configs/launcher/slurm.yaml.
FROM_HYDRA = {
    "additional_parameters": "sbatch",
    "array_parallelism": "parallel",
    "cpus_per_task": "cpus",
    "gpus_per_node": "gpus",
    "mem_gb": "memory",
    "signal_delay_s": "grace_seconds",
    "timeout_min": "time",
}
# Hydra's flags. The first ones take a word of their own.
WITH_WORD = {"--cfg", "-c", "--package", "-p", "--info", "-i", "--config-path", "-cp", "--config-name", "-cn"}
WITH_WORD |= {"--config-dir", "-cd", "--experimental-rerun"}
FLAGS = WITH_WORD | {"--multirun", "-m", "--help", "-h", "--hydra-help", "--version", "--run", "-r", "--resolve"}


def check_words(arguments: Sequence[str]) -> None:
    """Raise UserError for a flag of train.py that Hydra doesn't have, or a word that is not key=value."""
    for before, word in zip(("", *arguments), arguments, strict=False):
        if word.startswith("-"):
            if word.partition("=")[0] not in FLAGS:
                hint = "; reproduce.py has it" if word == "--dry-run" else nearest(word, sorted(FLAGS))
                raise UserError(f"{word} is unknown to train.py{hint}")
        elif "=" not in word and not word.startswith("~") and before not in WITH_WORD:
            raise UserError(f"{word!r} has no value; write {word}=VALUE")


def as_hydra_takes_them(overrides: Sequence[str]) -> list[str]:
    """Return overrides with ++ before a key of a section that takes any: launcher.env.NAME=value."""
    return [f"++{one}" if one.startswith(FREE) else one for one in overrides]


def check_added(overrides: Sequence[str], config_dir: str) -> None:
    """Raise UserError for an override that Hydra would misread or ignore.
    These are values that need quotes, a group without a choice, keys of Hydra's own launcher, and
    `+key=value` with a key that nothing reads.
    """
    for override in overrides:
        name, _, value = override.partition("=")
        key = name.lstrip("+")
        _check_quotes(override)
        _check_launcher(key)
        if key in GROUPS and value in ("", "null"):
            choices = sorted(path.stem for path in (CONFIG_DIR / key).glob("*.yaml"))
            raise UserError(f"{key}={value} must be one of {', '.join(choices)}")
        if not name.startswith("+") or key.startswith((*ADDABLE, *FREE)):
            continue
        known = known_keys(overrides, config_dir)
        if key in known:
            if name.startswith("++"):
                continue
            raise UserError(f"{key} is in the configuration already; write {key}= without the +")
        declared = declared_keys(overrides, config_dir)
        if key not in declared:
            raise UserError(f"{key} is unknown{nearest(key, [*known, *declared])}")


def _check_quotes(override: str) -> None:
    """Raise UserError for a value that Hydra reads only in quotes, such as a path with = in it."""
    if "=" not in override or override.startswith("-"):
        return
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        if (key := override.partition("=")[0]).endswith("."):
            raise UserError(f"{override} has no name after the last dot of {key}") from None
        raise UserError(
            f"{override} has characters that Hydra reads as its own; quote the value: {quoted(override)}"
        ) from None


def quoted(override: str) -> str:
    """Return key=value as it is typed in a shell if Hydra must take the value, or each of a list, as text."""
    key, _, value = override.partition("=")
    if value.startswith("[") and value.endswith("]"):
        return shlex.quote(f"{key}=[{','.join(map(_text, value[1:-1].split(',')))}]")
    return shlex.quote(f"{key}={_text(value)}")


def _text(value: str) -> str:
    return '"' + value.strip(" '\"").replace('"', r"\"") + '"'


def _check_launcher(key: str) -> None:
    """Raise UserError for a key of Hydra's own launcher. The suite starts the jobs itself."""
    if key.split("@")[0] == "hydra/launcher":
        raise UserError("hydra/launcher= has no effect; write launcher=slurm or launcher=local")
    if key.startswith("hydra.launcher."):
        first, _, rest = key.removeprefix("hydra.launcher.").partition(".")
        own = ".".join(filter(None, ("launcher", FROM_HYDRA.get(first, first), rest)))
        raise UserError(f"{key}= has no effect; write {'gpus' if first == 'tasks_per_node' else own}=")


def explain(error: HydraException, overrides: Sequence[str], config_dir: str) -> str:
    """Return what is wrong in one line."""
    said = str(error)
    if found := re.match(r"Could not override '([^']+)'", said):
        # Longer than found[1] if the value is a section, and shorter if a section of the key is misspelt.
        inner = re.search(rf"full_key: ({re.escape(found[1])}\S*)", str(error.__cause__))
        key, known = inner[1] if inner else found[1], known_keys(overrides, config_dir)
        if key in known or any(key in known_keys([one], config_dir) for one in _swept(overrides)):
            return f"{key} is not a key of every choice in this sweep"
        if key in declared_keys(overrides, config_dir):
            return f"{key} is not in the task's file; add it with +{key}="
        if key in known_keys([*overrides, "launcher=slurm"], config_dir):
            return f"{key} is a key of launcher=slurm; add launcher=slurm, or leave it out"
        hint = f"; +{key}= passes it to timm" if key.startswith("task.model.arguments.") else ""
        return f"{key} is unknown{nearest(key, known)}{hint}"
    if found := re.match(r"Error merging override ([^=]+=.*)", said):
        return f"{found[1]} must be a {'list' if 'object_type=list' in str(error.__cause__) else 'section'}"
    if found := re.match(r"In '[^']*': Could not find '([^'/]+)/([^']+)'", said):
        options = re.findall(r"^\t(\w+)$", said, re.MULTILINE)
        return f"{found[1]}={found[2]} is unknown{nearest(found[2], options)}"
    if found := re.match(r"Ambiguous value for argument '([^']+)'", said):
        asked = next((one for one in overrides if one.partition("=")[0] == found[1].partition("=")[0]), found[1])
        return f"{found[1]} has several values; add -m to train a run for each, or quote one value: {quoted(asked)}"
    return said


def known_keys(overrides: Sequence[str], config_dir: str) -> list[str]:
    """Return the keys of the configuration whose groups are chosen as in `overrides`, without its other settings."""
    config = _composed(_chosen(overrides), config_dir)
    return list(GROUPS) if config is None else [*keys_in(config), *GROUPS]


def declared_keys(overrides: Sequence[str], config_dir: str) -> list[str]:
    """Return the keys that the chosen task and the engine declare, also those that no file has."""
    from tasks.engine import config, section

    found = _composed(_chosen(overrides), config_dir)
    if found is None:
        return []
    return [*section.keys_of(config.Config), *section.keys_of(config.task_model(found.task.name), "task")]


def _chosen(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in overrides if one.partition("=")[0] in GROUPS and "," not in one)


def _swept(overrides: Sequence[str]) -> list[str]:
    """Return `group=choice` for every choice of the groups that a sweep goes over."""
    pairs = [one.partition("=") for one in overrides]
    return [
        f"{group}={choice}"
        for group, _, value in pairs
        if group in GROUPS and "," in value
        for choice in value.split(",")
    ]


@functools.cache
def _composed(chosen: tuple[str, ...], config_dir: str) -> DictConfig | None:
    try:
        with initialize_config_dir(config_dir, version_base="1.3"):
            return compose("config", list(chosen))
    except HydraException:
        return None


def keys_in(config: DictConfig) -> list[str]:
    """Return the keys of a configuration, those of nested ones joined by dots."""
    from results.runs import flatten  # slow to import: needs pandas

    return list(flatten(OmegaConf.to_container(config, resolve=True)))  # type: ignore[arg-type]
