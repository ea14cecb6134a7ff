"""Figure 1's budgets, and the sizes of matrices over training, on runs with chosen values."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import artefact, changed, run

from results import write_artefact
from results.cells import cell_table, published_cells, readable
from results.evidence.direction import findings
from results.evidence.played import play
from results.layouts import budget, dynamics
from results.layouts.budget import budget_of, budget_table, equal_budget, equal_budgets
from results.runs import frame
from results.schema import at_scale
from results.series import bound_set, trace

FIGURE1, FIGURE5, FIGURE_G1, FIGURE_C2, TABLE_C1, TABLE_H1 = (
    at_scale(artefact(name), "mini")
    for name in ("figure1", "figure5", "figure_g1", "figure_c2", "table_c1", "table_h1")
)
FIGURE3 = artefact("figure3")


def budget_run(name: str, seed: int, steps: int, score: float | None, curve: tuple = ()):
    """Return a run of Figure 1 with a final perplexity and a curve of (step, perplexity)."""
    metrics = tuple({"step": step, "perplexity": value} for step, value in curve)
    made = run(
        name, seed, None if score is None else {"perplexity": score}, lr=3.162e-3, metrics=metrics, num_steps=steps
    )
    return replace(
        made, config=made.config | {"num_steps": steps}, record=made.record | {"run_id": f"{name}-{seed}-{steps}"}
    )


UNIT = FIGURE1.budget.unit_steps["mini"]


def budget_runs(goal=58.0, small=60.0, middle=57.0, large=50.0, seeds=range(1, 7), unit=UNIT):
    """Return Figure 1's runs with `unit` steps at 1x, with a little noise that all runs of a seed share."""
    runs = []
    for seed in seeds:
        for share, score in ((1, small), (1.5, middle), (2, large)):
            steps, own = int(share * unit), score + seed / 100
            runs.append(budget_run("adamw", seed, steps, own, ((100, 90.0), (steps, own))))
        runs.append(budget_run("adamcpr_ip", seed, unit, goal + seed / 100, ((100, 95.0), (unit, goal + seed / 100))))
    return runs


def test_the_equal_budget_lies_where_the_scores_meet():
    assert equal_budget({1.0: 60.0, 2.0: 40.0}, 60.0, higher=False) == 1.0
    assert equal_budget({1.0: 60.0, 2.0: 40.0}, 61.0, higher=False) == 1.0  # no budget below the smallest was measured
    assert equal_budget({1.0: 60.0, 2.0: 40.0}, 40.0, higher=False) == pytest.approx(2.0)
    assert equal_budget({2.0: 40.0, 1.0: 60.0}, math.sqrt(60 * 40), higher=False) == pytest.approx(math.sqrt(2))
    assert equal_budget({1.0: 60.0, 1.5: 50.0, 2.0: 40.0}, 45.0, higher=False) == pytest.approx(
        math.exp(math.log(1.5) + math.log(45 / 50) / math.log(40 / 50) * math.log(2 / 1.5))
    )
    assert equal_budget({1.0: 60.0, 2.0: 40.0}, 39.9, higher=False) is None
    assert equal_budget({1.0: 60.0, 2.0: 70.0}, 65.0, higher=True) == pytest.approx(
        math.exp(math.log(65 / 60) / math.log(7 / 6) * math.log(2))
    )
    assert equal_budget({}, 1.0, higher=True) is None


@given(st.floats(1.01, 3.9), st.floats(10, 100), st.floats(0.05, 0.5))
def test_the_equal_budget_is_exact_for_a_power_law(budget, scale, power):
    """perplexity = scale x budget ^ -power is a line in logarithms."""
    measured = {b: scale * b**-power for b in (1.0, 1.5, 2.0, 4.0)}
    assert equal_budget(measured, scale * budget**-power, higher=False) == pytest.approx(budget, rel=1e-6)


def test_budgets_are_compared_within_a_seed():
    runs = budget_runs()
    found = equal_budgets(FIGURE1, budget.table(FIGURE1, runs))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for seed, equal in found.items():
        share = math.log((58 + seed / 100) / (60 + seed / 100)) / math.log((57 + seed / 100) / (60 + seed / 100))
        assert equal == pytest.approx(1.5**share)
    assert "1.31x in the median of 6 seeds (1.31x to 1.31x)." in said_of(runs)
    assert "or less in 6 of them: 1x is the smallest measured." in said_of(budget_runs(goal=70.0))
    assert "not within 2x in 6 of 6 seeds." in said_of(budget_runs(goal=40.0))
    assert "runs are missing" in said_of([r for r in runs if r.config["regularizer"]["name"] == "adamw"])


def said_of(runs) -> str:
    return budget.facts(FIGURE1, runs)["equal budget"]


def test_the_table_says_when_each_curve_had_the_goals_score():
    runs = budget_runs(seeds=[1, 2])
    table = budget_table(FIGURE1, budget.table(FIGURE1, runs), runs)
    assert table["method"].tolist() == ["AdamW"] * 3 + ["AdamCPR Kappa-IP"]
    assert table["budget"].tolist() == ["1x", "1.5x", "2x", "1x"]
    assert table["final perplexity"].tolist() == ["60.02 ± 0.01", "57.02 ± 0.01", "50.02 ± 0.01", "58.02 ± 0.01"]
    assert table.iloc[:, -1].tolist() == [
        "never, never",
        *(f"{int(share * UNIT)}, {int(share * UNIT)}" for share in (1.5, 2, 1)),
    ]


SMALL = at_scale(artefact("figure1"), "small")
LONG = SMALL.budget.unit_steps["small"]


def budget_findings(runs, definition=SMALL):
    return {one.claim: one for one in findings(play(definition, runs), complete=True)}


def outcomes(runs, definition=SMALL):
    return {claim: one.outcome for claim, one in budget_findings(runs, definition).items()}


def test_the_claim_of_the_budget_is_tested_over_seeds():
    seeds = range(101, 109)
    assert outcomes(budget_runs(seeds=seeds, unit=LONG)) == {"gpt2-budget": "behind", "gpt2-budget-equal": "ahead"}
    assert outcomes(budget_runs(goal=56.0, seeds=seeds, unit=LONG))["gpt2-budget"] == "ahead"
    assert outcomes(budget_runs(goal=57.0, seeds=seeds, unit=LONG))["gpt2-budget"] == "not resolved"  # no difference
    assert set(outcomes(budget_runs(), FIGURE1).values()) == {"numbers only"}  # mini scale decides nothing


def test_a_budget_claim_pairs_the_runs_of_a_seed():
    """The noise of a seed is 0.01 x its number in every run, so the paired differences have no spread."""
    found = budget_findings(budget_runs(seeds=range(101, 109), unit=LONG))["gpt2-budget-equal"]
    assert found.difference == found.low == found.high == pytest.approx(2)
    more = [*budget_runs(seeds=range(101, 109), unit=LONG), budget_run("adamw", 109, LONG, 90.0)]
    assert budget_findings(more)["gpt2-budget-equal"].pairs == 8


def test_a_diverged_run_leaves_no_difference_and_is_named():
    runs = budget_runs(goal=56.0, seeds=range(101, 109), unit=LONG)
    runs = [run for run in runs if (run.regularizer, run.seed) != ("adamcpr_ip", 103)]
    found = budget_findings([*runs, budget_run("adamcpr_ip", 103, LONG, None)])
    assert {one.outcome for one in found.values()} == {"numbers only"}
    assert all(one.difference is None and "AdamCPR Kappa-IP (1x) 57.0" in one.said for one in found.values())
    assert all("1 of 8 diverged" in one.said for one in found.values())


def test_a_budget_is_a_share_of_the_scale_s_own_steps():
    assert budget_of(FIGURE1, budget_run("adamw", 1, int(1.5 * UNIT), 1.0)) == 1.5
    assert budget_of(at_scale(FIGURE1, "paper"), budget_run("adamw", 1, 300_000, 1.0)) == 1.5
    table = budget.table(FIGURE1, budget_runs(seeds=[1]))
    assert table[["method", "budget", "score"]].values.tolist()[0] == ["AdamCPR Kappa-IP", 1.0, 58.01]


def dynamics_run(name, seed=1, moment=30, settings=None):
    """A run of four matrices logged at steps 10, 20, 30 and 40; κ from step `moment` on. R of matrix m at step s is (m + 1) s."""
    matrices = FIGURE_G1.dynamics.matrices
    rows = [{"matrices": matrices}]
    for step in (10, 20, 30, 40):
        row = {"step": step, "R": [(m + 1.0) * step for m in range(4)]}
        if name != "adamw":
            row |= {"kappa": [None if step < moment else 7.0] * 4, "lambda": [0.0 if step < moment else 0.1 * step] * 4}
        rows.append(row)
    losses = tuple({"step": step, "validation_loss": 5 - step / 100} for step in (20, 40))
    return replace(run(name, seed, {"perplexity": 1.0}, metrics=losses, **(settings or {})), dynamics=tuple(rows))


def test_a_trace_is_what_was_logged_of_the_matrix():
    made, matrix = dynamics_run("adamcpr_ip"), FIGURE_G1.dynamics.matrices[1]
    assert trace(made, matrix, "R") == ([10, 20, 30, 40], [20.0, 40.0, 60.0, 80.0])
    assert trace(made, matrix, "change") == ([20, 30, 40], [2.0, 2.0, 2.0])
    assert trace(made, matrix, "kappa") == ([30, 40], [7.0, 7.0])
    assert bound_set(made, matrix) == 30
    assert bound_set(dynamics_run("adamw"), matrix) is None
    assert trace(dynamics_run("adamw"), matrix, "lambda") == ([], [])
    with pytest.raises(KeyError, match="is not among the regularized matrices"):
        trace(made, "token_embedding.weight", "R")


def test_the_table_of_dynamics_has_a_row_a_method_and_matrix():
    runs = [dynamics_run("adamw"), dynamics_run("adamcpr_ip"), dynamics_run("adamcpr_ip", seed=2, moment=20)]
    table = dynamics.table(FIGURE_G1, runs, 1)
    assert len(table) == 3 * 4
    row = table[(table["method"] == "AdamCPR Kappa-IP") & (table["matrix"] == "blocks.1.attention.out")].iloc[0]
    assert row["seeds"] == 2 and row["R at first"] == "20 ± 0" and row["R at last"] == "80 ± 0"
    assert row["κ"] == "7 ± 0" and row["κ set at step"] == "30, 20" and row["largest λ"] == "4 ± 0"
    assert table[table["method"] == "AdamW, weight decay 0.01"].iloc[0].tolist()[3:] == ["10", "40", "-", "-", "-"]
    assert (table[table["method"] == "AdamCPR Kappa-WS, 1x"]["seeds"] == 0).all()


def test_the_figure_of_dynamics_marks_where_the_bound_is_set():
    runs = [dynamics_run("adamw"), dynamics_run("adamcpr_ip")]
    figure = dynamics.figure(FIGURE_G1, dynamics.table(FIGURE_G1, runs, 1), runs, "data", "footer")
    assert [axes.get_title() for axes in figure.axes] == ["AdamW, weight decay 0.01", "AdamCPR Kappa-IP", *[""] * 4]
    sizes, multipliers, losses = figure.axes[1], figure.axes[3], figure.axes[5]
    dashed = [line for line in sizes.lines if line.get_linestyle() == "--"]
    assert len(sizes.lines) == 8 and len(dashed) == 4 and all(list(line.get_xdata()) == [30, 30] for line in dashed)
    assert list(multipliers.lines[0].get_ydata()) == [0.0, 0.0, 3.0, 4.0]
    assert list(losses.lines[0].get_ydata()) == [4.8, 4.6]
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]


def test_a_column_may_be_a_matrix_and_its_lines_the_methods():
    runs = [dynamics_run("adamcpr_ws", settings={"kappa_update": mu}) for mu in (0.01, 0.1, 1.0, 10.0)]
    figure = dynamics.figure(FIGURE_C2, dynamics.table(FIGURE_C2, [], 1), runs, "data", "footer")
    assert [axes.get_title() for axes in figure.axes[:4]] == [
        m.removesuffix(".weight") for m in FIGURE_C2.dynamics.matrices
    ]
    assert [text.get_text() for text in figure.axes[3].texts] == ["μ = 0.01", "μ = 0.1", "μ = 1", "μ = 10"]
    assert not figure.legends
    assert len(figure.axes[0].lines) == 8


@pytest.mark.parametrize(
    "made", [(FIGURE1, budget_runs()), (FIGURE_G1, [dynamics_run("adamcpr_ip"), dynamics_run("adamw")]), (FIGURE5, [])]
)
def test_the_files_of_both_layouts_are_written_and_the_same_again(made, tmp_path):
    definition, runs = made
    contents = []
    for _ in range(2):
        write_artefact(definition, "mini", runs, tmp_path, expected=len(runs), seeds=1, command="a command")
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1] and len(contents[0]) == 6
    page = contents[0]["table.md"].decode()
    assert ("## Claims" in page) == bool(definition.claims)
    assert ("- equal budget: AdamW reaches AdamCPR Kappa-IP's score at a budget of: 1.31x" in page) == (
        definition is FIGURE1
    )


def mu_runs(value):
    """Return Table C.1's runs at mini scale with the perplexity value(μ, seed)."""
    lrs = (3.162e-3, 1e-2)
    return [
        run("adamcpr_ws", s, {"perplexity": value(mu, s)}, lr=lr, kappa_update=mu)
        for mu in (0.01, 0.1, 1.0, 10.0)
        for s in (1, 2, 3)
        for lr in lrs
    ]


def test_published_numbers_of_a_table_of_one_learning_rate_stand_in_its_row():
    data = frame(mu_runs(lambda mu, seed: 50.0 + seed), "perplexity")
    table = cell_table(TABLE_C1, data, seeds=3)
    beside = {(cell.lr, cell.setting): cell.mean_paper for cell in table.itertuples()}
    assert [beside[3.162e-3, mu] for mu in ("0.01", "0.1", "1", "10")] == [20.9, 20.9, 20.9, 20.91]
    assert all(math.isnan(beside[1e-2, mu]) for mu in ("0.01", "0.1", "1", "10"))


def test_a_published_run_that_diverged_is_said():
    panel = next(panel for panel in TABLE_H1.panels if panel.id == "amos")
    assert published_cells(TABLE_H1, panel)["diverged"].tolist() == [1, 1, 1]
    runs = [run("amos", seed, {"perplexity": 50.0}, lr=3.162e-3, extra_l2=1e-2) for seed in (1, 2, 3)]
    told = readable(TABLE_H1, cell_table(changed(TABLE_H1, panels=[panel]), frame(runs, "perplexity"), seeds=3))
    assert told[["ours", "paper"]].values.tolist() == [["50.00 ± 0.00 (3 seeds)", "diverged"]]


def test_a_panel_is_a_model_of_one_size_and_the_larger_one_is_of_paper_scale_only():
    assert [panel.id for panel in at_scale(FIGURE3, "mini").panels] == ["adamw", "ip", "ws"]
    assert [claim.id for claim in at_scale(FIGURE3, "mini").claims] == ["gpt2s-ip", "gpt2s-ws"]
    sizes = {"gpt2s": 18.0, "gpt2m": 16.0}
    runs = []
    for size, score in sizes.items():
        made = run("adamcpr_ip", 1, {"perplexity": score}, lr=3.162e-3, size=size)
        runs.append(replace(made, config=made.config | {"task": made.config["task"] | {"size": size}}))
    table = cell_table(at_scale(FIGURE3, "paper"), frame(runs, "perplexity"), seeds=1)
    assert dict(zip(table["method"], table["mean"], strict=True)) == {"GPT2s Kappa-IP": 18.0, "GPT2m Kappa-IP": 16.0}
    assert table["mean_paper"].tolist() == [17.97, 15.58]
