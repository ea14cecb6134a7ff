"""scale=rehearsal of an artefact: one run of each of the paper's panels, of 3 steps on fake data."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from results.artefact_file import check_artefact
from results.schema import Artefact
from tasks.engine.fake import SCALE

NOTE = (
    "FAKE DATA. A rehearsal of the paper's scale: models are tiny, runs have 3 steps, and images, texts and weights "
    "are drawn at random. Formats, loaders, evaluation and tables are the real ones. No number here is a result."
)


def with_rehearsal(artefact: Artefact) -> Artefact:
    """Return the artefact with a scale `rehearsal` that has the panels, keys and grids of its scale `paper`, if any."""
    if "paper" not in artefact.scales:
        return artefact
    content = _like_paper(artefact.model_dump(exclude_unset=True, exclude={"readme"}))
    for grid in content["scales"][SCALE]["grids"]:
        grid.pop("seed", None)
        grid.pop("num_steps", None)
    content["scales"][SCALE] = {"seeds": [1], "grids": content["scales"][SCALE]["grids"]}
    content["title"] = f"FAKE DATA: {artefact.title}"
    content["notes"] = content.get("notes", {}) | {SCALE: NOTE}
    return check_artefact(artefact._name, content)


def _like_paper(value: Any) -> Any:
    """Return a copy in which all that holds at scale paper also holds at the rehearsal's."""
    if isinstance(value, list):
        items = [_like_paper(item) for item in value]
        return [*items, SCALE] if "paper" in items else items
    if isinstance(value, dict):
        keys = {key: _like_paper(item) for key, item in value.items()}
        return keys | {SCALE: _like_paper(value["paper"])} if "paper" in value else keys
    return value


def one_of_each(artefact: Artefact, configs: Mapping[str, DictConfig]) -> dict[str, DictConfig]:
    """Return the first run of each panel, method, or value of a part's pair, by run id.

    Args:
        artefact: at scale rehearsal.
        configs: the runs of its grids.
    """
    wanted: list[dict[str, Any]] = [
        {"regularizer.name": group.regularizer} | group.select for group in (*artefact.panels, *artefact.methods)
    ]
    for part in artefact.parts:
        wanted += [{"task.name": part.task, artefact.pair.key: value} for value in artefact.pair.values]
    kept = {}
    for keys in wanted:
        found = next((run_id for run_id, cfg in configs.items() if _has(cfg, keys)), None)
        if found is not None:
            kept[found] = configs[found]
    return kept


def _has(cfg: DictConfig, keys: Mapping[str, Any]) -> bool:
    return all(OmegaConf.select(cfg, key) == value for key, value in keys.items())
