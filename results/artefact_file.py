"""Read configs/artefact/*.yaml into the types of results/schema.py, or say in one line what is wrong."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from results.consistency import inconsistency
from results.schema import KINDS, Artefact, file_of


class SchemaError(ValueError):
    """An artefact's file doesn't match the schema. One line names the file, the key and the nearest
    known one.
    """


def read_artefact(path: Path) -> Artefact:
    """Return the artefact of a checked file.

    Raises SchemaError: one line with the file, the key, what is wrong and the nearest known key.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, OSError) as error:
        raise SchemaError(f"{file_of(path.stem)} is not valid YAML: {' '.join(str(error).split())}") from None
    return check_artefact(path.stem, content)


def check_artefact(name: str, content: Any) -> Artefact:
    """Return an artefact from its file's content. Raise SchemaError if keys or values are invalid."""
    if not isinstance(content, dict):
        raise SchemaError(f"{file_of(name)} must hold keys with values, such as title: ...")
    try:
        artefact = Artefact.model_validate(content)
    except ValidationError as error:
        raise SchemaError(f"{file_of(name)}: {_said(_first(error.errors()), content)}") from None
    artefact._name = name
    if wrong := inconsistency(artefact, nearest):
        raise SchemaError(f"{file_of(name)}: {wrong}")
    return artefact


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the end of a message: "; did you mean ...?", or all known words if they are few."""
    if close := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; choose one of {', '.join(known)}" if 0 < len(known) <= 30 else ""


def _first(errors: Sequence[Any]) -> Any:
    """Return the error to tell: a misspelt key rather than the one that is missing for it."""
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


GONE = {"margin": "the margin is half of what the artefact's `control` shows; remove the key"}
UNION_MEMBERS = ("str", "int", "float", "bool", "dict", "list", "none")
# pydantic's words for a type, and ours.
WANTED = {
    "list_type": "must be a list, such as [1, 2]",
    "dict_type": "must have a value for each scale, such as {mini: 0.5, paper: 0.5}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "model_type": "must have keys of its own",
    "model_attributes_type": "must have keys of its own",
}


def _said(error: Mapping[str, Any], content: Any) -> str:
    """Return what is wrong in the words of a reader of the file."""
    kind, context = error["type"], error.get("ctx", {})
    where = _path(error["loc"])
    key = _named(where, content)
    if kind == "extra_forbidden" and where[-1] in GONE:
        return f"{key} is gone: {GONE[where[-1]]}"
    if kind == "extra_forbidden":
        return f"unknown key {key}{nearest(str(where[-1]), _known(error['loc'][:-1]))}"
    if kind == "union_tag_invalid":
        return f"{key}.kind={context['tag']} is unknown{nearest(context['tag'], list(KINDS))}"
    if kind == "union_tag_not_found":
        return f"the key {key}.kind is missing; choose one of {', '.join(KINDS)}"
    if kind == "missing":
        return f"the key {key} is missing"
    shown = f"{key}={error['input']}"
    if kind == "literal_error":
        allowed = re.findall("'(.+?)'", context["expected"])
        return f"{shown} is unknown{nearest(str(error['input']), allowed)}"
    if kind in ("greater_than", "greater_than_equal", "less_than_equal"):
        sign = {"greater_than": ">", "greater_than_equal": ">=", "less_than_equal": "<="}[kind]
        return f"{shown} must be {sign} {next(iter(context.values())):g}"
    if kind == "too_short":
        return (
            f"{shown} must not be empty"
            if context["min_length"] == 1
            else f"{shown} must be {context['min_length']} values"
        )
    if kind == "value_error":
        return f"{shown} {context['error']}"
    return f"{shown} {WANTED.get(kind, error['msg'][0].lower() + error['msg'][1:])}"


def _path(location: Sequence[Any]) -> list[Any]:
    """Return pydantic's path without its own words: the kind of a claim, and the types of a union."""
    return [
        part
        for place, part in enumerate(location)
        if not (place == 2 and part in KINDS)
        and not (isinstance(part, str) and ("[" in part or part.startswith("constrained-") or part in UNION_MEMBERS))
    ]


def _named(path: Sequence[Any], content: Any) -> str:
    """Return a path such as `claim ws-best: left`, with the id of a claim and the title of a panel."""
    parts: list[str] = []
    for place, part in enumerate(path):
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            content = None
        name = (
            content.get("id") or content.get("title") if isinstance(content, dict) and isinstance(part, int) else None
        )
        if name is not None and place < len(path) - 1:
            parts[-1:] = [f"{parts[-1].removesuffix('s')} {name!r}:"]
        else:
            parts.append(str(part))
    text = ".".join(parts)
    return text.replace(":.", ": ")


def _known(path: Sequence[Any]) -> list[str]:
    """Return the keys of the model at pydantic's path."""
    return list(_model_at(path).model_fields)


def _model_at(path: Sequence[Any]) -> Any:
    model: Any = Artefact
    for place, part in enumerate(path):
        if place == 2 and part in KINDS:
            model = KINDS[part]
        elif isinstance(part, str) and part in getattr(model, "model_fields", ()):
            model = _model_in(model.model_fields[part].annotation)
    return model


def _model_in(annotation: Any) -> Any:
    """Return the first model in a type such as list[Panel] or dict[str, Scale] | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if (found := _model_in(inner)) is not None:
            return found
    return None
