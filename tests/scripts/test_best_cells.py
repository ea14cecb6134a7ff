"""cells=best: the best published cell of each method alone."""

import pytest

from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from tasks.engine.errors import UserError


def best(name: str) -> dict:
    return expand(load_artefact(name), {"scale": "paper", "cells": "best"}, {})


def test_figure_2_is_three_cells_with_three_seeds():
    """76.6 is printed at lr 1e-3 and 2x, 76.3 at 1e-3, and AdamW's 75.4 at 1e-3 and 0.1 (results/published/figure2.yaml)."""
    found = sorted(
        (
            cfg.regularizer.name,
            cfg.seed,
            cfg.lr,
            cfg.regularizer.get("warm_start") or cfg.regularizer.get("weight_decay"),
        )
        for cfg in best("figure2").values()
    )
    assert len(found) == 9 and {seed for _, seed, _, _ in found} == {1, 2, 3}
    cells = {(name, lr, setting) for name, _, lr, setting in found}
    assert cells == {("adamw", 1e-3, 0.1), ("adamcpr_ip", 1e-3, None), ("adamcpr_ws", 1e-3, "2x")}


@pytest.mark.parametrize(("name", "runs"), [("figure3", 18), ("table1", 6), ("table2", 9), ("figure4", 6)])
def test_every_model_and_method_has_one_cell(name, runs):
    assert len(best(name)) == runs


def test_an_artefact_without_published_values_is_refused_in_one_line():
    with pytest.raises(UserError, match="the paper prints none of resnet50; use cells=all"):
        best("resnet50")


def test_a_scale_without_the_best_cells_is_refused_in_one_line():
    with pytest.raises(UserError, match="none of figure2's best published cells at this scale"):
        expand(load_artefact("figure2"), {"scale": "mini", "cells": "best"}, {})
