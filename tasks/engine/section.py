"""A section of the configuration: its keys with their types and ranges, and one line for a value that does not fit.

Free of torch, like every module that declares keys, so a dry run checks a configuration in no time.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from omegaconf import OmegaConf
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, WrapValidator

from tasks.engine.errors import UserError


class Section(BaseModel):
    """Keys and their values. Unknown keys are refused, and neither text nor true becomes a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _as_given(value: Any, check: Callable[[Any], Any]) -> Any:
    """Check a number and return it as it is: 1 must not become 1.0, since optimizers keep what they are given."""
    check(value)
    return value


def _whole(bits: int) -> BeforeValidator:
    """Return a validator of whole numbers below 2^bits. One that is written as 1e3 is whole."""

    def check(value: Any) -> Any:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, int) and whole >= 2**bits:
            raise ValueError(f"must be less than 2^{bits}")
        return whole

    return BeforeValidator(check)


T = TypeVar("T")
Number = Annotated[float, WrapValidator(_as_given)]
NonNegative = Annotated[float, Field(ge=0), WrapValidator(_as_given)]
Positive = Annotated[float, Field(gt=0), WrapValidator(_as_given)]
Share = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_given)]
PositiveShare = Annotated[float, Field(gt=0, le=1), WrapValidator(_as_given)]
InnerShare = Annotated[float, Field(gt=0, lt=1), WrapValidator(_as_given)]
BelowOne = Annotated[float, Field(ge=0, lt=1), WrapValidator(_as_given)]
NonNegativeInt = Annotated[int, Field(ge=0), _whole(31)]
PositiveInt = Annotated[int, Field(ge=1), _whole(31)]
AtLeastTwo = Annotated[int, Field(ge=2), _whole(31)]
Seed = Annotated[int, Field(ge=0), _whole(63)]
# More would end in a crash of torch, or start as many processes.
Threads = Annotated[int, Field(ge=1, le=4096), _whole(31)]
Workers = Annotated[int, Field(ge=0, le=1024), _whole(31)]
List = Annotated[tuple[T, ...], Strict(False)]
Pair = Annotated[tuple[T, T], Strict(False)]
Triple = Annotated[tuple[T, T, T], Strict(False)]

S = TypeVar("S", bound=Section)


def read(model: type[S], content: Any, where: str = "") -> S:
    """Return plain values as a section.

    Args:
        model: the section's keys.
        content: plain values by key, nested as in the YAML.
        where: the section's own key, such as "task". The top level is "".

    Raises:
        UserError: one line with the key, its value, and its range or the nearest known key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # A misspelled key is a missing one too, and a validator of ours knows more than a type.
        order = {"extra_forbidden": 0, "value_error": 1, "missing": 3}
        first = min(error.errors(), key=lambda found: order.get(found["type"], 2))
        raise UserError(_line(model, content, where, first)) from None


def read_part(model: type[S], path: Path, where: str) -> S:
    """Return the section `where` of a YAML file. Raise UserError as `read` does."""
    part = OmegaConf.select(OmegaConf.load(path), where)
    return read(model, OmegaConf.to_container(part, resolve=True), where)


def _line(model: type[Section], content: Any, where: str, error: Mapping[str, Any]) -> str:
    section, path = _place(model, error["loc"])
    key = ".".join((where, *path)).strip(".")
    if not path:  # a validator of the whole section begins its message with the key
        return f"{key}.{error['ctx']['error']}" if "error" in error.get("ctx", ()) else f"{key}={content} has no keys"
    if error["type"] == "missing" and len(path) == len(error["loc"]):
        return f"{key} is missing; it must be {_wanted(section, path[-1])}"
    if error["loc"][-1] == "[key]":
        return f"{key} has the key {error['loc'][-2]}, which must be text"
    value = _value(content, path)
    if error["type"] == "value_error" and _section_of(section, path[-1]) is not None:  # of the whole section, as above
        return f"{key}.{error['ctx']['error']}"
    while error["type"] == "extra_forbidden" and isinstance(value, dict) and value:
        part, value = next(iter(value.items()))
        key = f"{key}.{part}"
    shown = f"{key}={shown_as(value)}"
    if error["type"] == "extra_forbidden":
        return f"{shown} is unknown{_nearest(key, model, where)}"
    if error["type"] == "value_error":
        return f"{shown} {error['ctx']['error']}"
    wanted = _wanted(section, path[-1])
    if wanted == "text" and isinstance(value, int | float):
        return f"{shown} must be text; quote it: '{key}=\"{shown_as(value)}\"'"
    return f"{shown} is unknown; choose {wanted}" if wanted.startswith("one of") else f"{shown} must be {wanted}"


def _place(model: type[Section], location: Sequence[int | str]) -> tuple[type[Section], list[str]]:
    """Return the section that holds a key, and the key's path. A place in a list counts as the list's."""
    path: list[str] = []
    inner: type[Section] | None = model
    for part in location:
        if inner is None:
            break
        model = inner
        path.append(str(part))
        inner = _section_of(model, str(part))
    return model, path


def _section_of(model: type[Section], key: str) -> type[Section] | None:
    """Return the section that a key holds, or None if it holds something else."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    kinds = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    return next((kind for kind in kinds if issubclass(kind, Section)), None)


def _value(content: Any, path: Sequence[str]) -> Any:
    for part in path:
        content = content[part]
    return content


def shown_as(value: Any) -> str:
    """Return a value as it stands in YAML and on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown_as, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown_as(item)}' for key, item in value.items())}}}"
    return str(value)


def keys_of(model: type[Section], where: str = "") -> Iterator[str]:
    """Yield the keys of a section and of the sections in it, joined by dots."""
    for name in model.model_fields:
        key = f"{where}.{name}".strip(".")
        yield key
        if (inner := _section_of(model, name)) is not None:
            yield from keys_of(inner, key)


def _nearest(key: str, model: type[Section], where: str) -> str:
    known = list(keys_of(model, where))
    if close := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; known keys are {', '.join(known)}"


def _wanted(section: type[Section], key: str) -> str:
    """Return in words what a key's value must be."""
    schema = section.model_json_schema()
    return _words(schema["properties"][key], schema.get("$defs", {}))


def _words(schema: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return ", or ".join(_words(part, sections) for part in schema["anyOf"])
    if "$ref" in schema:
        return f"a section with the keys {', '.join(sections[schema['$ref'].rpartition('/')[2]]['properties'])}"
    if "enum" in schema:
        return f"one of {', '.join(map(shown_as, schema['enum']))}"
    if "const" in schema:
        return shown_as(schema["const"])
    if schema.get("type") == "array":
        count, items = schema.get("maxItems"), schema.get("items") or schema["prefixItems"][0]
        least = ", at least one" if schema.get("minItems") and not count else ""
        named = _words(items, sections).removeprefix("a ").replace("number", "numbers")
        return f"a list of {f'{count} ' if count else ''}{named}{least}"
    words = {"integer": f"a whole number{_range(schema)}", "number": f"a number{_range(schema)}"}
    words |= {"null": "null", "boolean": "true or false", "string": "text", "object": "a section"}
    return words.get(schema.get("type", ""), "a value")


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if high is not None:
        return f" in {'[' if low is not None else '('}{low or 0:g}, {high:g}{']' if 'maximum' in schema else ')'}"
    if low is not None:
        return f" >= {low:g}"
    return f" > {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
