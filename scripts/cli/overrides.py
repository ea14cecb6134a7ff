"""Keys given on the command line: report an unknown one in one line with the nearest known key."""

import re
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from scripts.cli.parser import GROUPS, nearest
from tasks.engine.errors import UserError

# Arguments that a file leaves at their defaults: of an optimizer, of timm's and open_clip's models. Those check them.
ADDABLE = ("regularizer.", "task.model.arguments.", "task.small.shape.", "hydra.", "hydra/")


def check_added(overrides: Sequence[str], config_dir: str) -> None:
    """Raise UserError for `+key=value` with a key that nothing reads."""
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if override.startswith("+") and not key.startswith(ADDABLE):
            raise UserError(f"{key} is unknown{nearest(key, known_keys(overrides, config_dir))}")


def explain(error: HydraException, overrides: Sequence[str], config_dir: str) -> str:
    """Return what is wrong in one line."""
    said = str(error)
    if found := re.match(r"Could not override '([^']+)'", said):
        return f"{found[1]} is unknown{nearest(found[1], known_keys(overrides, config_dir))}"
    if found := re.match(r"In '[^']*': Could not find '([^'/]+)/([^']+)'", said):
        options = re.findall(r"^\t(\w+)$", said, re.MULTILINE)
        return f"{found[1]}={found[2]} is unknown{nearest(found[2], options)}"
    return said


def known_keys(overrides: Sequence[str], config_dir: str) -> list[str]:
    """Return the keys of the configuration whose groups are chosen as in `overrides`, without its other settings."""
    chosen = [override for override in overrides if override.partition("=")[0] in GROUPS and "," not in override]
    try:
        with initialize_config_dir(config_dir, version_base="1.3"):
            config = compose("config", chosen)
    except HydraException:
        return list(GROUPS)
    return [*keys_of(config), *GROUPS]


def keys_of(config: DictConfig) -> list[str]:
    """Return the keys of a configuration, those of nested ones joined by dots."""
    from results.runs import flatten  # slow to import: needs pandas

    return list(flatten(OmegaConf.to_container(config, resolve=True)))  # type: ignore[arg-type]
