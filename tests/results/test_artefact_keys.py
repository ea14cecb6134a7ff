"""A misspelt key of an artefact is reported before any run, in one line with the nearest known key."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from commands import call_forked, is_one_line

from results.schema import SchemaError, check_artefact
from scripts.sweep import plan
from scripts.sweep.plan import expand, known_artefacts, load_artefact
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
    return path[-2:-1] == ("select",) or (len(path) == 5 and path[2] == "grids" and path[-1] != "regularizer")


@pytest.mark.parametrize("name", known_artefacts())
def test_every_misspelt_key_is_named(name):
    artefact = load_artefact(name)
    del artefact["name"]
    check_artefact(name, artefact)
    for path in keys(artefact):
        if of_configuration(path) or (path[:1] == ("scales",) and len(path) == 2):
            continue
        content, wrong = misspelt(artefact, path)
        with pytest.raises(SchemaError) as raised:
            check_artefact(name, content)
        said = str(raised.value)
        assert said.startswith(f"{name}.yaml: ") and "\n" not in said
        assert wrong in said or f"{path[-1]} is missing" in said or "needs the key" in said, (path, said)


@pytest.mark.parametrize("name", ["figure2", "grokking", "figure1", "evaluate_at", "figure4"])
def test_every_misspelt_key_of_a_configuration_is_named(name):
    artefact = load_artefact(name)
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
            scale = path[1] if path[0] == "scales" else "mini"
            with pytest.raises((SchemaError, UserError)) as raised:
                check_artefact(name, {key: value for key, value in wanted.items() if key != "name"})
                expand(wanted, {"scale": scale, "seeds": "1"}, {})
            said = str(raised.value)
            assert f"{wrong}; did you mean" in said or "needs the key task" in said, (path, said)


def test_two_runs_in_one_cell_are_refused():
    artefact = copy.deepcopy(load_artefact("figure2"))
    del artefact["panels"][0]["column"]
    with pytest.raises(UserError, match="'AdamW' has two runs of one cell and seed"):
        expand(artefact, {"scale": "mini"}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda a: a["claims"][0].update(left="adamcpr_wss"),
            "claims.0.left=adamcpr_wss is unknown; did you mean adamcpr_ws?",
        ),
        (lambda a: a["claims"][0].update(kind="bets"), "claims.0.kind=bets is unknown; did you mean best?"),
        (lambda a: a.update(layout="heatmaps"), "layout=heatmaps is unknown; did you mean heatmap?"),
        (
            lambda a: a["panels"][0]["published"].update(optimiser="adamw"),
            "no published row has optimiser; did you mean optimizer?",
        ),
        (lambda a: a["notes"].update(minni="a"), "unknown scale notes.minni; did you mean mini?"),
        (lambda a: a["claims"][2].update(within="near"), "claims.2.within='near': input should be a valid number"),
    ],
)
def test_a_wrong_value_is_named(change, said):
    artefact = load_artefact("figure2")
    del artefact["name"]
    change(artefact)
    with pytest.raises(SchemaError, match=re.escape(said)):
        check_artefact("figure2", artefact)


def test_a_command_says_it_in_one_line(tmp_path, monkeypatch):
    for path in (plan.CONFIG_DIR / "artefact").glob("*.yaml"):
        (tmp_path / "artefact").mkdir(exist_ok=True)
        (tmp_path / "artefact" / path.name).write_text(path.read_text().replace("panels:", "pannels:"))
    monkeypatch.setattr(plan, "CONFIG_DIR", tmp_path)
    (tmp_path / "scale").symlink_to(call_forked.__globals__["ROOT"] / "configs" / "scale")
    done = call_forked("status.py", "figure2")
    assert done.returncode == 2
    is_one_line(done, "figure2.yaml: unknown key pannels; did you mean panels?")
