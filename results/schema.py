"""Types of the keys in configs/artefact/*.yaml. docs/reference/artefacts.md is made from their
descriptions.

`read_artefact` (results/artefact_file.py) reads a file into them.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag

LayoutName = Literal["heatmap", "curves", "budget", "pairs", "dynamics", "dose", "triggers", "transfer"]
Value = bool | int | float | str | None
Names = Annotated[list[str], Field(min_length=1)]
FIRST_FRESH_SEED = 101  # seeds below it choose settings, seeds from it on confirm them
UNTUNED = ("budget", "pairs")  # layouts whose claims name their settings, so that every seed confirms
Side = str | Names  # panels, by id or regularizer
ValueAtScale = Value | dict[str, Value]  # one value, or one for each scale
Whole = Annotated[int, Field(strict=True, ge=1)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def as_column(value: Any) -> Any:
    """Return a number as the text of its column, so that `value: 0.5` and `value: "0.5"` are the same."""
    return f"{value:g}" if isinstance(value, int | float) else value


Column = Annotated[str, BeforeValidator(as_column)]


class Strict(BaseModel):
    """Reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(Strict):
    """The number that the artefact is about."""

    name: str = Field(description="a metric of the task's `evaluate`, such as `top1_accuracy`")
    label: str = Field(description="its name for people")
    unit: str = Field("", description="its unit, such as `%`")
    better: Literal["higher", "lower"] = Field(description="which scores are better")
    digits: Annotated[int, Field(strict=True, ge=0, le=6)] = Field(
        1, description="digits after the point in figures; tables have at least two"
    )
    near: Above | dict[str, Above] = Field(
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

    @property
    def table_digits(self) -> int:
        """Digits after the point in tables."""
        return max(2, self.digits)

    def near_at(self, scale: str) -> float:
        """Return `near` at a scale."""
        return self.near[scale] if isinstance(self.near, dict) else self.near


class PartMetric(Metric):
    """The score of a part of `layout: pairs`."""

    target: float | None = Field(
        None, description="makes the score the time at which the metric first reaches this value"
    )
    x_unit_steps: Whole | None = Field(None, description="steps in one unit of that time")


class Readme(Strict):
    """The artefact's row in README.md's table, with a cost for each of its scales.

    `{runs}` is counted in the grids, and `{hours}` are those of all runs on A100 GPUs.
    """

    item: str = Field(description="what it is")
    mini: str | None = Field(None, description="cost at mini scale")
    small: str | None = Field(None, description="cost at small scale")
    paper: str | None = Field(None, description="cost at paper scale")
    place: str | None = Field(None, description="sorts the row, in place of the artefact's name")


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("must be different numbers")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1), AfterValidator(_distinct)]


class Grid(BaseModel):
    """A Cartesian product of values. Every other key is a key of train.py with a value or a list of values."""

    model_config = ConfigDict(extra="allow", frozen=True)
    regularizer: str = Field(description="a file of configs/regularizer")
    task: str | None = Field(None, description="a file of configs/task, if not the artefact's")
    seed: Seeds | None = Field(None, description="seeds, if not the scale's")

    @property
    def axes(self) -> dict[str, Any]:
        """The keys of train.py, each with its value or list of values."""
        return self.model_extra or {}


class OwnResources(Strict):
    """What the runs of an artefact need, where it differs from their task (configs/scale/paper/<task>.yaml)."""

    gpu_hours_beside: Above | None = Field(None, description="GPU-hours of a run beside its updates")


class Scale(Strict):
    """What is trained at one scale: the union of the grids, for every seed."""

    minutes_per_run: Above | None = Field(
        None,
        description="of one core: what status.py and --dry-run reckon with until runs are measured",
    )
    resources: OwnResources = Field(
        OwnResources(gpu_hours_beside=None), description="what its runs need beyond their task's runs"
    )
    seeds: Seeds = Field(description="seeds of every grid that names none. They choose each method's setting")
    finalists: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="number of fresh seeds, from 101, on which each method's chosen setting is trained again"
    )
    grids: list[Grid] = Field(min_length=1, description="what is trained")


class Selection(Strict):
    """Runs of one regularizer."""

    title: str = Field(description="its name for people")
    regularizer: str = Field(description="a file of configs/regularizer")
    select: dict[str, ValueAtScale] = Field({}, description="values of configuration keys that its runs have")
    scales: list[str] | None = Field(None, description="the scales that have it; default: all")

    def select_at(self, scale: str) -> dict[str, Value]:
        """Return `select` with the values of one scale."""
        return {key: value[scale] if isinstance(value, dict) else value for key, value in self.select.items()}


class Panel(Selection):
    """A heat map: the runs of one regularizer."""

    column: str | None = Field(None, description="the configuration key of the x axis; without it there is one column")
    column_label: str = Field("", description="the name of the x axis for people")
    id: str | None = Field(None, description="the name by which claims know the panel; default: its regularizer")
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

    unit_steps: dict[str, Whole] = Field(description="steps in one unit of the budget, for each scale")
    reference: str = Field(description="the title of the method that the others are compared with")
    goal: str = Field(description="the title of the method whose score is to be reached")


class Curves(Strict):
    """For `layout: curves`."""

    x_label: str = Field(description="the name of the x axis")
    x_unit_steps: Whole = Field(description="steps in one unit of the x axis")
    y: Names = Field(description="metrics; the first one is drawn thick")
    target: float = Field(description="the value of the first metric that is to be reached")


class Dynamics(Strict):
    """For `layout: dynamics`: R, κ and λ over the steps."""

    columns: Literal["methods", "matrices"] = Field(description="what is drawn side by side")
    quantities: list[Literal["R", "change", "lambda", "loss"]] = Field(min_length=1, description="what is drawn")
    matrices: Names = Field(description="names of the model's parameters")


class Dose(Strict):
    """For `layout: dose`: scores over how far matrices had grown when they were bounded."""

    reference: str = Field(description="the title of the method whose best setting the others are compared with")


class Transfer(Strict):
    """For `layout: transfer`: scores over learning rates, for several shapes of the model."""

    shape: dict[str, str] = Field(
        min_length=1, description="configuration keys of a model's shape, each with its words, such as `width {}`"
    )
    tuned: dict[str, Value] = Field(
        description="the shape whose learning rate was tuned: a value of each of these keys"
    )


class Triggers(Strict):
    """For `layout: triggers`: when bounds are set."""

    published: float = Field(description="when the paper's are, in multiples of the lr warm-up")


class Pair(Strict):
    """For `layout: pairs`: two values of one key, run by run."""

    key: str = Field(description="a configuration key")
    values: list[Value] = Field(min_length=2, max_length=2, description="the two values that are compared")


class Part(Strict):
    """For `layout: pairs`: a task with its score."""

    title: str = Field(description="the title of its panel")
    task: str = Field(description="the task whose runs it has (`task.name`)")
    metric: PartMetric = Field(description="its score")


class Interpolation(Strict):
    """A figure of scores between two sets of weights."""

    name: str = Field(description="the metrics are <name>_0.0 to <name>_1.0")
    title: str = Field(description="the title of the figure and its section")
    x_label: str = Field(description="the name of the x axis")
    note: str = Field(description="a paragraph over the figure")


class ProgressScore(Strict):
    name: str = Field(description="a metric of the logs (metrics.jsonl)")
    label: str = Field(description="its name for people")


class Progress(Strict):
    """A figure of scores over training."""

    title: str = Field(description="the title of the figure and its section")
    note: str = Field(description="a sentence on the runs")
    scores: dict[str, ProgressScore] = Field({}, description="another score than the metric, for a scale")
    pictures: str = Field(description="the folder of the runs' pictures")
    pictures_note: str = Field(description="a sentence on the pictures")


class Control(Strict):
    """For `layout: heatmap`: a setting that must be worse than the panel's others.

    If it isn't, the data can't tell whether regularization matters, so nothing can be concluded from
    methods that look the same.
    """

    panel: str = Field(description="the panel's id")
    value: Column = Field(description="the column of the setting, such as a weight decay of 0")
    scales: list[str] | None = Field(None, description="the scales that have it; default: all")


class BaseClaim(Strict):
    """A claim of the paper, or ours."""

    id: str = Field(description="its name, in messages and in claims.csv")
    text: str = Field(description="the claim in words, for tables")
    published: str = Field(description="what the paper prints")
    scales: list[str] | None = Field(None, description="the scales that have the claim; default: all")


class BestClaim(BaseClaim):
    """The best cell of one side is better than that of the other."""

    kind: Literal["best"] = Field(description="which claim it is")
    left: Side = Field(description="the better panels, by id or regularizer")
    right: Side = Field(description="the panels that they are compared with")
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

    kind: Literal["share_near_best"] = Field(description="which claim it is")
    left: Side = Field(description="the panels with the larger share, by id or regularizer")
    right: Side = Field(description="the panels that they are compared with")
    reference: str = Field(description="the panel whose best cell it is")
    within: Above = Field(description="in the metric's unit")


class BestValueClaim(BaseClaim):
    """One value of a panel's columns is the best one."""

    kind: Literal["best_value"] = Field(description="which claim it is")
    left: Side = Field(description="panels, by id or regularizer")
    value: Column = Field(description="the best value of `column`")


class SameValuesClaim(BaseClaim):
    """Every other value of a panel's columns is as good as one."""

    kind: Literal["same_values"] = Field(description="which claim it is")
    left: Side = Field(description="panels, by id or regularizer")
    value: Column = Field(description="the value of `column` that the others are compared with")


class SameBestClaim(BaseClaim):
    """Two methods are equally good."""

    kind: Literal["same_best"] = Field(description="which claim it is")
    left: Side = Field(description="panels, by id or regularizer")
    right: Side = Field(description="the panels that they are compared with")


class SoonerClaim(BaseClaim):
    """One method reaches the target before the others."""

    kind: Literal["sooner"] = Field(description="which claim it is")
    left: str = Field(description="a method's title")
    right: Names = Field(description="methods' titles")


class MethodAt(Strict):
    method: str = Field(description="the title of a method")
    budget: float = Field(description="its budget, in units of `budget.unit_steps`")


class BudgetClaim(BaseClaim):
    """One method at one budget is better than another at another."""

    kind: Literal["budget"] = Field(description="which claim it is")
    left: MethodAt = Field(description="the better method and its budget")
    right: MethodAt = Field(description="the method and budget that it is compared with")


class SameClaim(BaseClaim):
    """The two values of a part are equally good."""

    kind: Literal["same"] = Field(description="which claim it is")
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


def file_of(artefact: str) -> str:
    """Return the file that defines an artefact, as messages name it."""
    return f"configs/artefact/{artefact}.yaml"


# A layout's own key has no None in its type: `read_artefact` refuses a file without it (NEEDED).
ABSENT: Any = None


class Artefact(Strict):
    """A table or figure: what is trained for it, how it is laid out, and what is claimed of it."""

    _name: str = PrivateAttr("")
    _scale: str = PrivateAttr("")

    title: str = Field(description="the title of the table and figure")
    layout: LayoutName = Field(description="how the runs are shown")
    readme: Readme | None = Field(None, description="the row of README.md's table, for an artefact of this repository")
    scales: dict[str, Scale] = Field(description="what is trained at each scale, `mini` or `paper`")
    task: str | None = Field(None, description="a file of configs/task, unless every grid names one")
    metric: Metric = Field(ABSENT, description="the score; every layout but pairs and dynamics needs one")
    notes: dict[str, str] = Field({}, description="a paragraph over the table, for each scale")
    claims: list[Claim] = Field([], description="what is tested")
    control: Control | None = Field(None, description="heatmap: a setting that must be worse")
    claims_of: str = Field("the paper", description="whose claims they are")
    row: str = Field(ABSENT, description="heatmap: the configuration key of the rows")
    row_label: str = Field(
        "", description="heatmap: its name for people; default: learning rate for `lr`, else the key"
    )
    panels: list[Panel] = Field([], description="heatmap: left to right")
    panels_per_row: Whole | None = Field(None, description="heatmap: breaks the figure into rows; default: one row")
    published_as: str | None = Field(None, description="heatmap: what the published values are of")
    published_beside: Literal["every row"] | None = Field(
        None, description="heatmap: where published values stand that name no row"
    )
    methods: list[Method] = Field(
        [], description="curves, budget, dynamics, dose, triggers, transfer: a row or curve each"
    )
    curves: Curves = Field(ABSENT, description="the keys of `layout: curves`")
    budget: Budget = Field(ABSENT, description="the keys of `layout: budget`")
    dynamics: Dynamics = Field(ABSENT, description="the keys of `layout: dynamics`")
    dose: Dose = Field(ABSENT, description="the keys of `layout: dose`")
    triggers: Triggers = Field(ABSENT, description="the keys of `layout: triggers`")
    transfer: Transfer = Field(ABSENT, description="the keys of `layout: transfer`")
    pair: Pair = Field(ABSENT, description="pairs: the key whose two values are compared")
    parts: list[Part] = Field([], description="pairs: a panel each")
    interpolation: Interpolation | None = Field(None, description="adds a figure of scores between two sets of weights")
    progress: Progress | None = Field(None, description="adds a figure of scores over training")
    folds: str | None = Field(None, description="a line on folds.csv, the scores of every fold and label")

    @property
    def name(self) -> str:
        """The name of the file without .yaml."""
        return self._name

    @property
    def file(self) -> str:
        """The file that defines the artefact, for messages."""
        return file_of(self.name)

    @property
    def row_name(self) -> str:
        """The name of a heat map's rows for people."""
        return self.row_label or ("learning rate" if self.row == "lr" else self.row.rpartition(".")[2])

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

    def there(one: Selection | BaseClaim | Control) -> bool:
        return not one.scales or scale in one.scales

    def chosen(one: Selection) -> Selection:
        return one.model_copy(update={"select": one.select_at(scale)})

    kept = {
        "panels": [chosen(panel) for panel in artefact.panels if there(panel)],
        "methods": [chosen(method) for method in artefact.methods if there(method)],
        "claims": [claim for claim in artefact.claims if there(claim)],
        "control": artefact.control if artefact.control and there(artefact.control) else None,
    }
    copy = artefact.model_copy(update=kept)
    copy._scale = scale
    return copy


def names_of(side: Side | MethodAt) -> list[str]:
    """Return the panels or methods that one side of a claim names."""
    if isinstance(side, MethodAt):
        return [side.method]
    return [side] if isinstance(side, str) else list(side)
