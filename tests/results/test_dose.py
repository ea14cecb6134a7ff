"""`layout: dose`: the distance to a reference over how far matrices had grown when bounded, on runs with chosen values."""

from dataclasses import replace

import pytest
from made_runs import artefact, run

from results import Run, write_artefact
from results.layouts import dose
from results.report.sections import COMMITTED, RECORDS, section
from results.schema import at_scale

REGIME = at_scale(artefact("regime"), "small")
SHORT, LONG = (500, 20), (20_000, 1_000)  # steps, steps of warm-up


def made(
    name: str, seed: int, scores: float | dict | None, schedule=SHORT, kappa=(), grown=(4.0, 9.0, 8.0), **settings
) -> Run:
    """Return a run whose three matrices begin at 1, 1 and 2 and end at `grown`, with these bounds."""
    final = {"perplexity": scores} if isinstance(scores, float) else scores
    steps, warmup = schedule
    found = run(name, seed, final, lr=3.162e-3, **settings)
    end = {"step": steps, "R": list(grown)} | ({"kappa": list(kappa), "lambda": [1e-3, 0.0, 0.0]} if kappa else {})
    config = found.config | {"num_steps": steps, "task": found.config["task"] | {"schedule": {"warmup_steps": warmup}}}
    record = found.record | {"run_id": f"{found.run_id}-{steps}"}
    return replace(
        found, config=config, record=record, dynamics=({"matrices": ["a", "b", "c"]}, {"step": 0, "R": [1, 1, 2]}, end)
    )


def both_schedules(seeds=(1, 2)) -> list[Run]:
    """The best decay is 1e-2 in the short schedule and 1e-3 in the long one. WS 2x is 3 behind in the first and 1 ahead in the second."""
    runs = []
    for seed in seeds:
        for schedule, good, distance in ((SHORT, 1e-2, 3.0), (LONG, 1e-3, -1.0)):
            for decay in (1e-3, 1e-2):
                score = 20.0 + 10 * seed + (0 if decay == good else 5)
                runs.append(made("adamw", seed, score, schedule, weight_decay=decay))
            runs.append(made("adamcpr_ws", seed, 20.0 + 10 * seed + distance, schedule, (2, 3, 10), warm_start="2x"))
    return runs


def test_a_run_is_compared_at_its_seed_with_the_reference_s_best_setting_of_its_schedule():
    table = dose.table(REGIME, both_schedules())
    assert table[["schedule", "method", "seed"]].values.tolist() == [
        [schedule, "Kappa-WS 2x", seed]
        for schedule in ("500 steps, 20 of warm-up", "20,000 steps, 1,000 of warm-up")
        for seed in (1, 2)
    ]
    assert table["score"].tolist() == [33.0, 43.0, 29.0, 39.0]
    assert table["reference"].tolist() == [30.0, 40.0, 30.0, 40.0]
    assert table["difference"].tolist() == [3.0, 3.0, -1.0, -1.0]
    assert dose.percent(table).tolist() == pytest.approx([10.0, 7.5, -100 / 30, -2.5])


def test_sizes_are_medians_over_matrices_relative_to_initialization():
    """κ is 2, 3 and 10, and R(0) is 1, 1 and 2. AdamW's matrices end 4, 9 and 4 times as large."""
    table = dose.table(REGIME, both_schedules())
    assert set(table["bound"]) == {3.0} and set(table["grown"]) == {4.0}
    without = [replace(one, dynamics=()) for one in both_schedules()]
    assert dose.table(REGIME, without)[["bound", "grown"]].isna().all(axis=None)


def test_a_setting_with_a_diverged_run_is_not_the_reference():
    runs = [made("adamw", seed, None if seed == 2 else 10.0, weight_decay=1e-2) for seed in (1, 2)]
    runs += [made("adamw", seed, 30.0, weight_decay=1e-3) for seed in (1, 2)]
    runs += [made("adamcpr_ip", seed, 31.0, kappa=(2, 2, 2)) for seed in (1, 2)]
    assert dose.table(REGIME, runs)["difference"].tolist() == [1.0, 1.0]


def test_a_diverged_run_has_a_bound_but_no_difference():
    runs = [made("adamw", 1, 30.0, weight_decay=1e-3), made("adamcpr_ip", 1, None, kappa=(2, 2, 2))]
    (row,) = dose.table(REGIME, runs).to_dict("records")
    assert row["bound"] == 2.0 and row["reference"] == 30.0 and row["difference"] != row["difference"]
    means, _ = dose.tables(REGIME, dose.table(REGIME, runs), runs)
    assert means.rows[["perplexity", "AdamW", "difference"]].values.tolist() == [["-", "30.00", "-"]]


def test_the_reference_is_chosen_by_one_half_of_the_examples_and_compared_on_the_other():
    def halves(selection: float, report: float) -> dict:
        return {"perplexity": 0.0, "perplexity_selection": selection, "perplexity_report": report}

    runs = [
        made("adamw", 1, halves(30.0, 35.0), weight_decay=1e-3),
        made("adamw", 1, halves(31.0, 25.0), weight_decay=1e-2),
        made("adamcpr_ip", 1, halves(10.0, 36.0), kappa=(2, 2, 2)),
    ]
    assert dose.table(REGIME, runs)[["score", "reference", "difference"]].values.tolist() == [[36.0, 35.0, 1.0]]


def test_the_table_has_means_and_spreads_over_seeds():
    runs = both_schedules()
    means, every = dose.tables(REGIME, dose.table(REGIME, runs), runs)
    assert means.rows["seeds"].tolist() == [2, 2] and means.rows["κ/R(0)"].tolist() == ["3", "3"]
    assert means.rows["difference"].tolist() == ["+3.00 ± 0.00", "-1.00 ± 0.00"]
    assert means.rows["perplexity"].tolist() == ["38.00 ± 7.07", "34.00 ± 7.07"]
    assert len(every.rows) == 4


def test_the_figure_has_a_point_a_run_and_a_dotted_line_where_the_reference_s_matrices_end():
    runs = both_schedules()
    (axes,) = dose.figure(REGIME, dose.table(REGIME, runs), runs, "data", "a footer").axes
    points = [tuple(point) for cloud in axes.collections for point in cloud.get_offsets().tolist()]
    assert points == [(3.0, pytest.approx(y)) for y in (10.0, 7.5, -100 / 30, -2.5)]
    assert axes.get_xscale() == "log"
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [list(line.get_xdata()) for line in dotted] == [[4.0, 4.0]] * 2


def test_the_page_s_chart_has_a_dot_a_run_that_names_it():
    runs = both_schedules()
    (chart,) = dose.panels(REGIME, dose.table(REGIME, runs), runs)
    ids = [run.run_id for run in runs if run.regularizer == "adamcpr_ws"]
    assert sorted(trace.customdata[0] for trace in chart.figure.data) == sorted(ids)
    assert [trace.x[0] for trace in chart.figure.data] == [3.0] * 4
    assert dose.panels(REGIME, dose.table(REGIME, []), []) == []


def test_its_files_are_written_and_the_page_shows_them_with_and_without_records(tmp_path):
    runs = both_schedules()
    write_artefact(REGIME, "small", runs, tmp_path, expected=len(runs), seeds=2, command="a command")
    assert "| 500 steps, 20 of warm-up " in (tmp_path / "table.md").read_text()
    with_records = section(REGIME, "small", runs, tmp_path, expected=len(runs), seeds=2)
    without = section(REGIME, "small", [], tmp_path, expected=len(runs), seeds=2)
    assert (with_records.state, without.state) == (RECORDS, COMMITTED)
    assert with_records.remarks == () and len(with_records.panels) == 1 and without.image
    for title in ("Means over seeds", "Every run"):
        assert title in with_records.tables
    assert "Every run" in without.tables
