"""Types of the keys in configs/artefact/*.yaml. docs/reference/artefacts.md is made from their
descriptions.

`read_artefact` rejects an unknown key before training starts and names the nearest known one.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, ValidationError

from results.published import FOLDER, published_rows

LayoutName = Literal["heatmap", "curves", "budget", "pairs", "dynamics"]
Value = bool | int | float | str | None
Side = str | list[str]  # panels, by id or regularizer
ValueAtScale = Value | dict[str, Value]  # one value, or one for each scale


class SchemaError(ValueError):
    """An artefact's file doesn't match the schema. One line names the file, the key and the nearest
    known one.
    """


class Strict(BaseModel):
    """Reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(Strict):
    """The number that the artefact is about."""

    name: str = Field(description="a metric of the task's `evaluate`, such as `top1_accuracy`")
    label: str = Field(description="its name for people")
    unit: str = Field("", description="its unit, such as `%`")
    better: Literal["higher", "lower"] = Field(description="which scores are better")
    digits: int = Field(1, description="digits after the point in tables")
    near: float | dict[str, float] = Field(
        1.0, description="how far behind the best cell still counts as near it, in the metric's unit"
    )

    @property
    def higher(self) -> bool:
        """Whether higher scores are better."""
        return self.better == "higher"

    @property
    def label_and_unit(self) -> str:
        """The text of an axis."""
        return ", ".join(filter(None, (self.label, self.unit)))

    def near_at(self, scale: str) -> float:
        """Return `near` at a scale."""
        return self.near[scale] if isinstance(self.near, dict) else self.near


class PartMetric(Metric):
    """The score of a part of `layout: pairs`."""

    target: float | None = Field(
        None, description="makes the score the time at which the metric first reaches this value"
    )
    x_unit_steps: int | None = Field(None, description="steps in one unit of that time")


class Readme(Strict):
    """The artefact's row in README.md's table. `{runs}` is counted in the grids."""

    item: str = Field(description="what it is")
    mini: str = Field(description="cost at mini scale")
    paper: str = Field(description="cost at paper scale")
    place: str | None = Field(None, description="sorts the row, in place of the artefact's name")


class Grid(BaseModel):
    """A Cartesian product of values. Every other key is a key of train.py with a value or a list of values."""

    model_config = ConfigDict(extra="allow", frozen=True)
    regularizer: str = Field(description="a file of configs/regularizer")
    task: str | None = Field(None, description="a file of configs/task, if not the artefact's")
    seed: list[int] | None = Field(None, description="seeds, if not the scale's")

    @property
    def axes(self) -> dict[str, Any]:
        """The keys of train.py, each with its value or list of values."""
        return self.model_extra or {}


class Scale(Strict):
    """What is trained at one scale: the union of the grids, for every seed."""

    minutes_per_run: float | None = Field(
        None,
        description="of one GPU or core: what status.py and --dry-run reckon with until runs are measured",
    )
    seeds: list[int]
    grids: list[Grid]


class Selection(Strict):
    """Runs of one regularizer."""

    title: str
    regularizer: str = Field(description="a file of configs/regularizer")
    select: dict[str, ValueAtScale] = Field({}, description="values of configuration keys that its runs have")

    def select_at(self, scale: str) -> dict[str, Value]:
        """Return `select` with the values of one scale."""
        return {key: value[scale] if isinstance(value, dict) else value for key, value in self.select.items()}


class Panel(Selection):
    """A heat map: the runs of one regularizer."""

    column: str | None = Field(None, description="the configuration key of the x axis; without it there is one column")
    column_label: str = ""
    id: str | None = Field(None, description="the name by which claims know the panel; default: its regularizer")
    scales: list[str] | None = Field(None, description="the scales that have the panel; default: all")
    metric: str | None = Field(None, description="its own metric")
    seeds: int | None = Field(
        None, description="seeds of the published values, where the panel differs from the artefact"
    )
    published: dict[str, Value] | None = Field(
        None, description="rows of results/published/<artefact>.yaml that belong to the panel"
    )
    published_column: str | None = Field(None, description="the key of those rows that is the x axis")
    published_column_unit: int | None = Field(None, description="by which that key is divided")
    published_row: float | str | None = Field(None, description="the row of the published values, where they name none")

    @property
    def name(self) -> str:
        """The name by which claims know the panel."""
        return self.id or self.regularizer


class Method(Selection):
    """A curve or a column: the runs of one regularizer."""


class Budget(Strict):
    """For `layout: budget`: scores over training budgets."""

    unit_steps: dict[str, int] = Field(description="steps in one unit of the budget, for each scale")
    reference: str = Field(description="the title of the method that the others are compared with")
    goal: str


class Curves(Strict):
    """For `layout: curves`."""

    x_label: str
    x_unit_steps: int = Field(description="steps in one unit of the x axis")
    y: list[str] = Field(description="metrics; the first one is drawn thick")
    target: float = Field(description="the value of the first metric that is to be reached")


class Dynamics(Strict):
    """For `layout: dynamics`: R, κ and λ over the steps."""

    columns: str = Field(description="the configuration key whose values are the columns")
    quantities: list[str]
    matrices: list[str]


class Pair(Strict):
    """For `layout: pairs`: two values of one key, run by run."""

    key: str = Field(description="a configuration key")
    values: list[Value] = Field(min_length=2, max_length=2)


class Part(Strict):
    """For `layout: pairs`: a task with its score."""

    title: str
    task: str
    metric: PartMetric
    margin: dict[str, float] = Field(description="how large a difference still counts as the same, for each scale")


class Interpolation(Strict):
    """A figure of scores between two sets of weights."""

    name: str = Field(description="the metrics are <name>_0.0 to <name>_1.0")
    title: str
    x_label: str
    note: str


class ProgressScore(Strict):
    name: str
    label: str


class Progress(Strict):
    """A figure of scores over training."""

    title: str
    note: str
    scores: dict[str, ProgressScore] = Field({}, description="another score than the metric, for a scale")
    pictures: str = Field(description="the folder of the runs' pictures")
    pictures_note: str


class BaseClaim(Strict):
    """A claim of the paper, or ours."""

    id: str
    text: str
    published: str = Field(description="what the paper prints")
    scales: list[str] | None = Field(None, description="the scales that have the claim; default: all")


class BestClaim(BaseClaim):
    """The best cell of one side is better than that of the other."""

    kind: Literal["best"]
    left: Side
    right: Side
    chosen_by: dict[Literal["left", "right"], str] | None = Field(
        None, description="the panels whose score chooses the cells"
    )

    @property
    def sides_and_choosers(self) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
        """Each side with the panels whose score chooses its cell."""
        by = self.chosen_by or {}
        return (self.left, by.get("left", self.left)), (self.right, by.get("right", self.right))


class ShareClaim(BaseClaim):
    """A larger share of one side's cells is near the best cell of a third."""

    kind: Literal["share_near_best"]
    left: Side
    right: Side
    reference: str = Field(description="the panel whose best cell it is")
    within: float = Field(description="in the metric's unit")


class BestValueClaim(BaseClaim):
    """One value of a panel's columns is the best one."""

    kind: Literal["best_value"]
    left: Side
    value: str


class SameValuesClaim(BaseClaim):
    """Every other value of a panel's columns is within a margin of one."""

    kind: Literal["same_values"]
    left: Side
    value: str
    margin: dict[str, float]


class SameBestClaim(BaseClaim):
    """Two methods at their best columns are within a margin of each other."""

    kind: Literal["same_best"]
    left: Side
    right: Side
    margin: dict[str, float]


class SoonerClaim(BaseClaim):
    """One method reaches the target before the others."""

    kind: Literal["sooner"]
    left: str = Field(description="a method's title")
    right: list[str] = Field(description="methods' titles")


class MethodAt(Strict):
    method: str
    budget: float


class BudgetClaim(BaseClaim):
    """One method at one budget is better than another at another."""

    kind: Literal["budget"]
    left: MethodAt
    right: MethodAt


class SameClaim(BaseClaim):
    """The pairs of a part differ by less than its margin."""

    kind: Literal["same"]
    task: str = Field(description="the part's task")


CLAIMS = (BestClaim, ShareClaim, BestValueClaim, SameValuesClaim, SameBestClaim, SoonerClaim, BudgetClaim, SameClaim)
KINDS = {model.model_fields["kind"].annotation.__args__[0]: model for model in CLAIMS}  # type: ignore[union-attr]
Claim = Annotated[
    Annotated[BestClaim, Tag("best")]
    | Annotated[ShareClaim, Tag("share_near_best")]
    | Annotated[BestValueClaim, Tag("best_value")]
    | Annotated[SameValuesClaim, Tag("same_values")]
    | Annotated[SameBestClaim, Tag("same_best")]
    | Annotated[SoonerClaim, Tag("sooner")]
    | Annotated[BudgetClaim, Tag("budget")]
    | Annotated[SameClaim, Tag("same")],
    Discriminator("kind"),
]


# A layout's own key has no None in its type: `read_artefact` refuses a file without it (NEEDED).
ABSENT: Any = None


class Artefact(Strict):
    """A table or figure: what is trained for it, how it is laid out, and what is claimed of it."""

    _name: str = PrivateAttr("")
    _scale: str = PrivateAttr("")

    title: str
    layout: LayoutName
    readme: Readme | None = Field(None, description="the row of README.md's table, for an artefact of this repository")
    scales: dict[str, Scale]
    task: str | None = Field(None, description="a file of configs/task, unless every grid names one")
    metric: Metric = ABSENT
    notes: dict[str, str] = Field({}, description="a paragraph over the table, for each scale")
    claims: list[Claim] = []
    claims_of: str = Field("the paper", description="whose claims they are")
    row: str = Field(ABSENT, description="heatmap: the configuration key of the rows")
    panels: list[Panel] = Field([], description="heatmap: left to right")
    panels_per_row: int | None = None
    published_as: str | None = Field(None, description="heatmap: what the published values are of")
    published_beside: Literal["every row"] | None = Field(
        None, description="heatmap: where published values stand that name no row"
    )
    methods: list[Method] = Field([], description="curves, budget, dynamics: a row or curve each")
    curves: Curves = ABSENT
    budget: Budget = ABSENT
    dynamics: Dynamics = ABSENT
    pair: Pair = ABSENT
    parts: list[Part] = Field([], description="pairs: a panel each")
    interpolation: Interpolation | None = None
    progress: Progress | None = None
    folds: str | None = Field(None, description="a line on folds.csv, the scores of every fold and label")

    @property
    def name(self) -> str:
        """The name of the file without .yaml."""
        return self._name

    @property
    def scale(self) -> str:
        """The scale that `at_scale` chose, else empty."""
        return self._scale

    @property
    def note(self) -> str:
        """The paragraph over the table of an artefact `at_scale`."""
        return self.notes.get(self.scale, "")


def at_scale(artefact: Artefact, scale: str) -> Artefact:
    """Return the artefact with its panels and claims of one scale. Each `select` has this scale's values."""

    def there(one: Panel | BaseClaim) -> bool:
        return not one.scales or scale in one.scales

    def chosen(one: Selection) -> Selection:
        return one.model_copy(update={"select": one.select_at(scale)})

    kept = {
        "panels": [chosen(panel) for panel in artefact.panels if there(panel)],
        "methods": [chosen(method) for method in artefact.methods],
        "claims": [claim for claim in artefact.claims if there(claim)],
    }
    copy = artefact.model_copy(update=kept)
    copy._scale = scale
    return copy


NEEDED: dict[str, tuple[str, ...]] = {
    "heatmap": ("metric", "row", "panels"),
    "curves": ("metric", "curves", "methods"),
    "budget": ("metric", "budget", "methods"),
    "pairs": ("pair", "parts"),
    "dynamics": ("dynamics", "methods"),
}


def read_artefact(path: Path) -> Artefact:
    """Return the artefact of a checked file.

    Raises SchemaError: one line with the file, the key, what is wrong and the nearest known key.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise SchemaError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from None
    return check_artefact(path.stem, content)


def check_artefact(name: str, content: Any) -> Artefact:
    """Return an artefact from its file's content. Raise SchemaError if keys or values are invalid."""
    try:
        artefact = Artefact.model_validate(content)
    except ValidationError as error:
        raise SchemaError(f"{name}.yaml: {_said(_first(error.errors()))}") from None
    if wrong := _inconsistency(artefact, name):
        raise SchemaError(f"{name}.yaml: {wrong}")
    artefact._name = name
    return artefact


def _inconsistency(artefact: Artefact, name: str) -> str | None:
    """Return a message on the first inconsistency in the artefact, or None."""
    return (
        _missing_key(artefact)
        or _unknown_scale(artefact)
        or _unknown_side(artefact)
        or _unknown_column(artefact, FOLDER / f"{name}.yaml")
    )


def _missing_key(artefact: Artefact) -> str | None:
    for key in NEEDED[artefact.layout]:
        if not getattr(artefact, key):
            return f"layout {artefact.layout} needs the key {key}"
    for scale, protocol in artefact.scales.items():
        for number, grid in enumerate(protocol.grids):
            if not (grid.task or artefact.task):
                return f"scales.{scale}.grids.{number} needs the key task, since the artefact has none"
    return None


def _unknown_scale(artefact: Artefact) -> str | None:
    scales = list(artefact.scales)
    for key, value in _walk(artefact.model_dump(), ""):
        by_scale = isinstance(value, dict) and (key.endswith(BY_SCALE) or ".select." in key)
        named = key.endswith(".scales") and value
        if not (by_scale or named):
            continue
        for scale in value:
            if scale not in scales:
                said = f"unknown scale {key}.{scale}" if by_scale else f"{key}={scale} is unknown"
                return said + nearest(str(scale), scales)
    return None


def _unknown_side(artefact: Artefact) -> str | None:
    """Look for a claim whose panels, methods or task the artefact does not have."""
    known = [panel.name for panel in artefact.panels] + [method.title for method in artefact.methods]
    for number, claim in enumerate(artefact.claims):
        sides = [(key, value, known) for key, value in claim if key in ("left", "right", "reference")]
        if isinstance(claim, SameClaim):
            sides.append(("task", claim.task, [part.task for part in artefact.parts]))
        for key, value, there in sides:
            for one in names_of(value):
                if one not in there:
                    return f"claims.{number}.{key}={one} is unknown{nearest(one, there)}"
    return None


def _unknown_column(artefact: Artefact, published: Path) -> str | None:
    """Look for a panel that asks for a key that no published row has."""
    if not published.exists():
        return None
    columns = sorted({key for row in published_rows(published) for key in row})
    for number, panel in enumerate(artefact.panels):
        for key in [*(panel.published or ()), *filter(None, [panel.published_column])]:
            if key not in columns:
                return f"panels.{number}: no published row has {key}{nearest(key, columns)}"
    return None


BY_SCALE = ("notes", "margin", "near", "unit_steps", "progress.scores")  # one value for each scale


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every nested value with the path of keys that leads to it."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, one in inner:
        yield from _walk(one, f"{path}.{key}" if path else str(key))


def names_of(side: Side | MethodAt) -> list[str]:
    """Return the panels or methods that one side of a claim names."""
    if isinstance(side, MethodAt):
        return [side.method]
    return [side] if isinstance(side, str) else list(side)


def _first(errors: Sequence[Any]) -> Any:
    """Return the error to tell: a misspelt key rather than the one that is missing for it."""
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


def _said(error: Mapping[str, Any]) -> str:
    where = [
        part for place, part in enumerate(error["loc"]) if not (place == 2 and part in KINDS)
    ]  # skips the kind in (claims, number, kind)
    key = ".".join(map(str, where))
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{nearest(str(where[-1]), _known(error['loc'][:-1]))}"
    if error["type"] == "union_tag_invalid":
        return f"{key}.kind={error['ctx']['tag']} is unknown{nearest(error['ctx']['tag'], list(KINDS))}"
    if error["type"] == "literal_error":
        allowed = re.findall("'(.+?)'", error["ctx"]["expected"])
        return f"{key}={error['input']} is unknown{nearest(str(error['input']), allowed)}"
    if error["type"] == "missing":
        return f"the key {key} is missing"
    return f"{key}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the end of a message: "; did you mean ...?", or all known words if they are few."""
    if close := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; choose one of {', '.join(known)}" if len(known) <= 30 else ""


def _known(path: Sequence[Any]) -> list[str]:
    """Return the keys of the model at pydantic's path."""
    model: Any = Artefact
    for place, part in enumerate(path):
        if place == 2 and part in KINDS:
            model = KINDS[part]
        elif (
            isinstance(part, str)
            and isinstance(model, type)
            and issubclass(model, BaseModel)
            and part in model.model_fields
        ):
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """Return the first model in a type such as list[Panel] or dict[str, Scale] | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None
