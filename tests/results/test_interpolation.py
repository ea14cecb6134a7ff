"""Curves between two models, and Table 2: made runs with scores of interpolated weights."""

import pytest
from made_runs import SEEDS, artefact, run

from results import write_artefact
from results.cells import cell_table, readable
from results.interpolation import interpolated, interpolation_figure, interpolation_table
from results.runs import frame
from results.schema import at_scale
from scripts.sweep.plan import expand

TABLE2 = artefact("table2")
SETTINGS = {"adamw": [{"weight_decay": decay} for decay in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)], "adamcpr_ip": [{}]}
SETTINGS["adamcpr_ws"] = [{"warm_start": start} for start in ("1x", "2x", "4x")]
PUBLISHED = {
    ("AdamW", str(decay)): mean
    for decay, mean in zip((0.0001, 0.001, 0.01, 0.1, 1), (75.24, 75.39, 75.32, 75.17, 74.4), strict=True)
}
PUBLISHED |= {("AdamCPR Kappa-WS", "1x"): 75.27, ("AdamCPR Kappa-WS", "2x"): 75.52, ("AdamCPR Kappa-WS", "4x"): 75.41}
PUBLISHED |= {("AdamCPR Kappa-IP", ""): 75.4}


def table2_runs(lr: float = 3e-4, scores=lambda top, share: top + 10 * share * (1 - share) - 20 * (1 - share)) -> list:
    """Return nine cells of three seeds.

    The best cells are the decay 1e-3, s = 2x and IP. Their seeds 1, 2, 3 are at 70, 71 and 72 %."""
    runs = []
    for name, settings in SETTINGS.items():
        for setting in settings:
            worse = 0 if setting in ({"weight_decay": 1e-3}, {"warm_start": "2x"}, {}) else 5
            for seed in SEEDS:
                top = 69.0 + seed - worse
                final = {"top1_accuracy": top} | {f"wise_ft_{share / 4}": scores(top, share / 4) for share in range(5)}
                runs.append(run(name, seed, final, lr=lr, **setting))
    return runs


def test_the_curves_are_of_every_method_s_best_cell():
    points = interpolated(TABLE2, table2_runs())
    assert len(points) == 3 * 3 * 5
    of = points.groupby("method", sort=False)["setting"].unique().map(list).to_dict()
    assert of == {"AdamW": ["0.001"], "AdamCPR Kappa-WS": ["2x"], "AdamCPR Kappa-IP": ["-"]}
    own = points[(points["method"] == "AdamW") & (points["seed"] == 2)]
    assert own["share"].tolist() == [0, 0.25, 0.5, 0.75, 1] and own["value"].tolist() == [
        51.0,
        57.875,
        63.5,
        67.875,
        71.0,
    ]
    table = interpolation_table(TABLE2, points).set_index("method")
    means = "51.00", "57.88", "63.50", "67.88", "71.00"
    assert table.loc["AdamCPR Kappa-IP"].tolist() == ["-", *(f"{mean} ± 1.00" for mean in means), "71.00 at 1"]
    (axes,) = interpolation_figure(at_scale(TABLE2, "mini"), points, "40 images; 80 steps", "a footer").axes
    assert [text.get_text() for text in axes.texts] == ["AdamW, 0.001", "AdamCPR Kappa-WS, 2x", "AdamCPR Kappa-IP"]
    title = axes.get_figure().get_suptitle().replace("\n", " ")
    assert title == f"{TABLE2.interpolation.title}, here on 40 images; 80 steps (mini scale)"
    assert all(line.get_ydata().tolist() == [51.0, 57.875, 63.5, 67.875, 71.0] for line in axes.lines)


def test_a_best_share_between_the_two_models_is_found():
    points = interpolated(
        TABLE2, table2_runs(scores=lambda top, share: top + 40 * share * (1 - share) - 20 * (1 - share))
    )
    assert set(interpolation_table(TABLE2, points)["best"]) == {"73.50 at 0.75"}


@pytest.mark.parametrize(
    ("scale", "lr", "lrs", "count"), [("paper", 3e-5, {3e-5}, 27), ("mini", 3e-4, {3e-4, 1e-3}, 28)]
)
def test_table_2_has_every_published_cell_beside_ours(scale, lr, lrs, count, tmp_path):
    configs = expand(TABLE2, {"scale": scale}, {}).values()
    assert len(configs) == count and {cfg.lr for cfg in configs} == lrs
    definition, runs = at_scale(TABLE2, scale), table2_runs(lr)
    table = cell_table(definition, frame(runs, "top1_accuracy"), seeds=3)
    assert {(cell.method, cell.setting): cell.mean_paper for cell in table.itertuples()} == PUBLISHED
    assert table["lr"].tolist() == [lr] * 9
    assert readable(definition, table)["ours"].tolist().count("71.00 ± 1.00 (3 seeds)") == 3
    write_artefact(TABLE2, scale, runs, tmp_path, expected=27, seeds=3, command="make reproduce-table2")
    assert {"wise_ft.csv", "wise_ft.png", "wise_ft.svg"} < {path.name for path in tmp_path.iterdir()}
    page = (tmp_path / "table.md").read_text()
    assert "![wise_ft](wise_ft.png)" in page and "| AdamCPR Kappa-WS | 2x      | 51.00 ± 1.00 |" in page
    assert "75.52 > 75.39" in page and "numbers only" in page


def test_runs_without_such_scores_bring_no_curve(tmp_path):
    runs = [run("adamw", seed, {"top1_accuracy": 70.0}, lr=3e-4, weight_decay=0.1) for seed in SEEDS]
    runs.append(run("adamcpr_ip", 1, None, lr=3e-4))
    assert interpolated(TABLE2, runs).empty
    write_artefact(TABLE2, "mini", runs, tmp_path, expected=27, seeds=3, command="make reproduce-table2")
    assert not list(tmp_path.glob("wise_ft*")) and "wise_ft" not in (tmp_path / "table.md").read_text()
