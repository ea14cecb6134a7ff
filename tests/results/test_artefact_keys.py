"""A misspelt key of an artefact is reported before any run, in one line with the nearest known key."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from commands import call_forked, is_one_line
from omegaconf import OmegaConf

from results import schema
from results.artefact_file import SchemaError, check_artefact
from scripts.sweep import artefacts
from scripts.sweep.artefacts import known_artefacts
from scripts.sweep.plan import expand
from tasks.engine.errors import UserError


def keys(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Return the paths of all keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        if isinstance(key, str):
            yield (*path, key)
        yield from keys(one, (*path, key))


def misspelt(content: dict, path: tuple) -> tuple[dict, str]:
    """Return a copy with one letter too many in a key, and that key."""
    content = copy.deepcopy(content)
    at: Any = content
    for part in path[:-1]:
        at = at[part]
    wrong = path[-1][:-1] + "q" + path[-1][-1]
    at[wrong] = at.pop(path[-1])
    return content, wrong


def of_configuration(path: tuple) -> bool:
    """Tell whether it is a key of train.py, which the schema does not check."""
    return path[-2:-1] in (("select",), ("shape",), ("tuned",)) or (
        len(path) == 5 and path[2] == "grids" and path[-1] != "regularizer"
    )


def content_of(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(artefacts.CONFIG_DIR / "artefact" / f"{name}.yaml"), resolve=True)


@pytest.mark.parametrize("name", known_artefacts())
def test_every_misspelt_key_is_named(name):
    artefact = content_of(name)
    check_artefact(name, artefact)
    for path in keys(artefact):
        if of_configuration(path) or (path[:1] == ("scales",) and len(path) == 2):
            continue
        content, wrong = misspelt(artefact, path)
        with pytest.raises(SchemaError) as raised:
            check_artefact(name, content)
        said = str(raised.value)
        assert said.startswith(f"configs/artefact/{name}.yaml: ") and "\n" not in said
        assert wrong in said or f"{path[-1]} is missing" in said or "needs the key" in said, (path, said)


@pytest.mark.parametrize("name", ["figure2", "grokking", "figure1", "evaluate_at", "figure4"])
def test_every_misspelt_key_of_a_configuration_is_named(name):
    artefact = content_of(name)
    for path in keys(artefact):
        if path[-1] in ("column", "row") or of_configuration(path):
            wanted = copy.deepcopy(artefact)
            if of_configuration(path):
                wanted, wrong = misspelt(artefact, path)
            else:
                at: Any = wanted
                for part in path[:-1]:
                    at = at[part]
                at[path[-1]] = wrong = at[path[-1]] + "q"
            of_scale = artefact[path[0]][path[1]].get("scales") if path[0] in ("panels", "methods") else None
            scale = path[1] if path[0] == "scales" else (of_scale or ["mini"])[0]
            with pytest.raises((SchemaError, UserError)) as raised:
                expand(check_artefact(name, wanted), {"scale": scale, "seeds": "1"}, {})
            said = str(raised.value)
            assert f"{wrong}; did you mean" in said or "needs the key task" in said, (path, said)


def test_two_runs_in_one_cell_are_refused():
    content = content_of("figure2")
    del content["panels"][0]["column"]
    with pytest.raises(UserError, match="panel 'AdamW' has two runs of one cell and seed"):
        expand(check_artefact("figure2", content), {"scale": "mini"}, {})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "figure2",
            lambda a: a["panels"][0].update(select={"regularizer.weight_decay": 0.02}),
            "panel 'AdamW' has no run at scale mini: no grid has select.regularizer.weight_decay=0.02; did you mean",
        ),
        (
            "figure2",
            lambda a: a["panels"][0].update(
                select={"task.precision": {"mini": "tf", "small": "fp32", "paper": "tf32"}}
            ),
            "panel 'AdamW' has no run at scale mini: no grid has select.task.precision=tf; choose one of fp32",
        ),
        (
            "figure2",
            lambda a: a["panels"][0].update(regularizer="adamv", id="adamw"),
            "panel 'AdamW' has no run at scale mini: no grid trains adamv; did you mean adamw?",
        ),
        (
            "figure2",
            lambda a: a["scales"]["mini"]["grids"].append({"regularizer": "sgd", "lr": 0.1}),
            "scales.mini.grids.3 trains sgd, but no panel, method or part shows its runs",
        ),
        (
            "figure_c2",
            lambda a: a["methods"][0].update(select={"regularizer.kappa_update": 0.02}),
            "method 'μ = 0.01' has no run at scale mini: no grid has select.regularizer.kappa_update=0.02",
        ),
        (
            "evaluate_at",
            lambda a: a["pair"].update(values=["before", "afterwards"]),
            "has no run with regularizer.evaluate_at=afterwards at scale mini",
        ),
        (
            "figure2",
            lambda a: a["scales"]["mini"]["grids"][1].update(lr=[1e-3, "abc"]),
            "scales.mini.grids.1 (adamcpr_ip): lr=abc must be a number >= 0",
        ),
    ],
)
@pytest.mark.parametrize("given", [{}, {"num_steps": "10"}], ids=["own", "overridden"])
def test_grids_that_do_not_fit_are_refused_with_the_file(name, change, said, given):
    content = content_of(name)
    change(content)
    with pytest.raises(UserError) as raised:
        expand(check_artefact(name, content), {"scale": "mini", "seeds": "1"}, given)
    assert str(raised.value).startswith(f"configs/artefact/{name}.yaml: ")
    assert said in str(raised.value)


def test_an_override_may_leave_a_panel_without_runs_and_is_not_blamed_on_the_file():
    artefact = check_artefact("figure_c2", content_of("figure_c2"))
    seeds = artefact.scales["mini"].seeds
    assert len(expand(artefact, {"scale": "mini"}, {"regularizer.kappa_update": "0.1"})) == len(seeds)
    with pytest.raises(UserError, match=r"^lr=abc must be a number"):
        expand(artefact, {"scale": "mini"}, {"lr": "abc"})


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "figure2",
            {"regularizer.warm_start": "2x"},
            "regularizer.warm_start is a key of adamcpr_ws, but figure2 trains adamw, adamcpr_ip too; to train only "
            "those that have it: python scripts/train.py -m task=cifar100 regularizer=adamcpr_ws scale=mini "
            "regularizer.warm_start=2x",
        ),
        (
            "evaluate_at",
            {"task.model.heads": "2"},
            "task.model.heads is a key of grokking, but evaluate_at trains cifar100 too",
        ),
    ],
)
def test_a_key_that_only_some_runs_have_is_refused_with_those_that_have_it(name, given, said):
    with pytest.raises(UserError) as raised:
        expand(check_artefact(name, content_of(name)), {"scale": "mini"}, given)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda a: a["claims"][0].update(left="adamcpr_wss"),
            "claim 'cifar-ws': left=adamcpr_wss is unknown; did you mean adamcpr_ws?",
        ),
        (lambda a: a["claims"][0].update(kind="bets"), "claims.0.kind=bets is unknown; did you mean best?"),
        (lambda a: a.update(layout="heatmaps"), "layout=heatmaps is unknown; did you mean heatmap?"),
        (
            lambda a: a["panels"][0]["published"].update(optimiser="adamw"),
            "no published row has optimiser; did you mean optimizer?",
        ),
        (lambda a: a["notes"].update(minni="a"), "unknown scale notes.minni; did you mean mini?"),
        (lambda a: a["claims"][2].update(within="near"), "claim 'cifar-robust': within=near must be a number"),
        (lambda a: a["claims"][2].update(within=-1), "claim 'cifar-robust': within=-1 must be > 0"),
        (lambda a: a["claims"][0].pop("kind"), "the key claims.0.kind is missing; choose one of best,"),
        (lambda a: a["claims"][0].update(right="adamcpr_ws"), "claim 'cifar-ws': left and right are the same"),
        (
            lambda a: a["claims"][0].update(chosen_by={"left": "adamv"}),
            "claim 'cifar-ws': chosen_by.left=adamv is unknown; did you mean adamw?",
        ),
        (
            lambda a: a["claims"][0].update(kind="sooner", right=["adamw"]),
            "claim 'cifar-ws': kind sooner does not fit layout heatmap; its claims are best,",
        ),
        (
            lambda a: a["claims"].append(a["claims"][3] | {"kind": "same_values", "margin": {"mini": 1}}),
            "claim 'cifar-2x': margin is gone: the margin is half of what the artefact's `control` shows; remove the key",
        ),
        (lambda a: a["panels"][0].update(select={"lr": {"paper": 1}}), "select.lr needs a value for scale mini"),
        (lambda a: a["scales"]["mini"].update(seeds="1, 2"), "seeds=1, 2 must be a list, such as [1, 2]"),
        (lambda a: a["scales"]["mini"].update(seeds=[1, 1]), "seeds=[1, 1] must be different numbers"),
        (lambda a: a["scales"]["mini"].update(seeds=[]), "seeds=[] must not be empty"),
        (lambda a: a["scales"]["mini"].update(seeds=[True]), "seeds.0=True must be a whole number"),
        (lambda a: a["scales"]["mini"].update(minutes_per_run=float("nan")), "must be a finite number"),
        (lambda a: a["metric"].update(near=-1), "metric.near=-1 must be > 0"),
        (lambda a: a.update(panels_per_row=0), "panels_per_row=0 must be >= 1"),
        (lambda a: a["metric"].update(better="high"), "metric.better=high is unknown; did you mean higher?"),
    ],
)
def test_a_wrong_value_is_named(change, said):
    artefact = content_of("figure2")
    change(artefact)
    with pytest.raises(SchemaError, match=re.escape(said)):
        check_artefact("figure2", artefact)


def test_a_command_says_it_in_one_line(tmp_path, monkeypatch):
    for path in (artefacts.CONFIG_DIR / "artefact").glob("*.yaml"):
        (tmp_path / "artefact").mkdir(exist_ok=True)
        (tmp_path / "artefact" / path.name).write_text(path.read_text().replace("panels:", "pannels:"))
    monkeypatch.setattr(artefacts, "CONFIG_DIR", tmp_path)
    (tmp_path / "scale").symlink_to(call_forked.__globals__["ROOT"] / "configs" / "scale")
    done = call_forked("status.py", "figure2")
    assert done.returncode == 2
    is_one_line(done, "configs/artefact/figure2.yaml: unknown key pannels; did you mean panels?")


@pytest.mark.parametrize("content", [3, ["a"], None])
def test_a_file_without_keys_is_said(content):
    with pytest.raises(SchemaError, match=r"^configs/artefact/mine\.yaml must hold keys with values"):
        check_artefact("mine", content)


def test_a_number_is_the_text_of_its_column():
    artefact = content_of("figure2")
    artefact["claims"][3]["value"] = 2
    (claim,) = [one for one in check_artefact("figure2", artefact).claims if one.id == "cifar-2x"]
    assert claim.value == "2"


def test_every_key_has_a_description_for_the_reference():
    models = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, schema.BaseModel)]
    fields = [(one.__name__, key, field) for one in models for key, field in one.model_fields.items()]
    assert [f"{model}.{key}" for model, key, field in fields if not field.description] == []
