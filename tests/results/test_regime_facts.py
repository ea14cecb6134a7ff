"""Where an artefact's runs lie beside the paper's regime, on runs with chosen values."""

from dataclasses import replace

import pytest
from made_runs import artefact, run

from results import Run, write_artefact
from results.regime import measured, place_of_runs, regime_sentence
from results.schema import at_scale

FIGURE3 = at_scale(artefact("figure3"), "small")
PAPER = {"growth": 167, "turn": 0.0157}


def made(
    name: str, lr: float, score: float | None, growth: float = 167.0, turn: float = 0.0157, seed: int = 1, **settings
) -> Run:
    """Return a run of GPT-2 with a regime in its record."""
    found = run(name, seed, None if score is None else {"perplexity": score}, lr=lr, task="gpt2", **settings)
    return replace(
        found, record=found.record | {"regime": {"growth": {"2x": growth, "end": 10 * growth}, "turn": turn}}
    )


def test_the_place_is_that_of_adamw_s_best_learning_rate():
    """CPR is best at 1e-2, which does not count."""
    runs = [
        made("adamw", 1e-3, 20.0, 17.0, 0.02, weight_decay=0.1),
        made("adamw", 3.162e-3, 18.0, 170.0, 0.015, weight_decay=0.1),
        made("adamw", 1e-2, 19.0, 1700.0, 0.01, weight_decay=0.1),
        made("adamcpr_ip", 1e-2, 10.0, 1700.0, 0.01),
    ]
    place = place_of_runs(FIGURE3, "gpt2", runs)
    assert (place.growth, place.turn, place.inside) == (170.0, 0.015, True)


def test_the_best_learning_rate_is_that_of_the_best_mean_over_seeds_of_one_decay():
    runs = [made("adamw", 1e-3, 20.0, 17.0, seed=seed, weight_decay=0.1) for seed in (1, 2)]
    runs += [made("adamw", 1e-2, score, 1700.0, seed=seed, weight_decay=0.1) for seed, score in ((1, 15.0), (2, 30.0))]
    assert place_of_runs(FIGURE3, "gpt2", runs).growth == 17.0


def test_neither_a_diverged_run_s_setting_nor_a_fresh_seed_chooses_the_learning_rate():
    runs = [made("adamw", 1e-3, 20.0, 17.0, seed=seed, weight_decay=0.1) for seed in (1, 2)]
    runs += [made("adamw", 1e-2, score, 1700.0, seed=seed, weight_decay=0.1) for seed, score in ((1, 10.0), (2, None))]
    runs += [
        made("adamw", 3.162e-3, score, 170.0, seed=seed, weight_decay=0.1) for seed, score in ((1, 21.0), (101, 5.0))
    ]
    assert place_of_runs(FIGURE3, "gpt2", runs).growth == 17.0


def test_without_a_score_of_adamw_the_middle_learning_rate_counts():
    runs = [made("adamcpr_ip", lr, 20.0, growth) for lr, growth in ((1e-3, 17.0), (3.162e-3, 170.0), (1e-2, 1700.0))]
    assert place_of_runs(FIGURE3, "gpt2", runs).growth == 170.0


@pytest.mark.parametrize(
    ("growth", "turn", "inside"),
    [
        (PAPER["growth"] / 5.9, PAPER["turn"] * 3.9, True),
        (PAPER["growth"] * 5.9, PAPER["turn"] / 3.9, True),
        (PAPER["growth"] / 6.1, PAPER["turn"], False),
        (PAPER["growth"], PAPER["turn"] * 4.1, False),
        (PAPER["growth"], None, True),
        (None, PAPER["turn"], None),
    ],
)
def test_runs_are_inside_within_a_factor_of_six_in_growth_and_four_in_turn(growth, turn, inside):
    one = made("adamw", 3.162e-3, 20.0, weight_decay=0.1)
    regime = {"growth": {} if growth is None else {"2x": growth}, "turn": turn}
    place = place_of_runs(FIGURE3, "gpt2", [replace(one, record=one.record | {"regime": regime})])
    assert place.inside is inside


def test_of_a_task_whose_growth_the_paper_does_not_give_nothing_can_be_said():
    one = made("adamw", 3.162e-3, 20.0, weight_decay=0.1)
    other = replace(one, config=one.config | {"task": one.config["task"] | {"name": "grokking"}})
    assert place_of_runs(FIGURE3, "grokking", [other]).inside is None
    assert regime_sentence(FIGURE3, [other]).startswith(
        "Whether this is the paper's regime can't be said (grokking: G(2x) 167"
    )


@pytest.mark.parametrize(("after", "inside"), [(4.4, True), (2.3, True), (8.7, True), (2.1, False), (9.0, False)])
def test_matrices_that_begin_at_zero_are_judged_by_what_follows_the_warm_up(after, inside):
    one = made("adamw", 1e-4, 20.0, weight_decay=0.1)
    config = one.config | {"task": one.config["task"] | {"name": "lora"}}
    record = one.record | {"regime": {"growth": {}, "turn": None, "after": after}}
    assert place_of_runs(FIGURE3, "lora", [replace(one, config=config, record=record)]).inside is inside


def test_runs_without_a_regime_say_nothing():
    runs = [run("adamw", 1, {"perplexity": 20.0}, task="gpt2", weight_decay=0.1)]
    assert place_of_runs(FIGURE3, "gpt2", runs).inside is None
    assert regime_sentence(FIGURE3, runs) == regime_sentence(FIGURE3, []) == ""


def with_sizes(one: Run, kappa: float | None, grown: float) -> Run:
    """Return the run with two matrices that begin at 1 and end at `grown`. Half of the λ are positive."""
    end = {"step": 10, "R": [grown, grown]} | ({"kappa": [kappa, kappa], "lambda": [2e-4, 0.0]} if kappa else {})
    return replace(one, dynamics=({"matrices": ["a", "b"]}, {"step": 0, "R": [1.0, 1.0]}, end))


def test_the_sentence_has_the_numbers_beside_the_paper_s():
    runs = [
        with_sizes(made("adamw", 3.162e-3, 18.0, 100.0, 0.02, weight_decay=0.1), None, 20.0),
        with_sizes(made("adamw", 3.162e-3, 19.0, 100.0, 0.02, weight_decay=0.0), None, 300.0),
        with_sizes(made("adamcpr_ip", 3.162e-3, 18.0, 100.0, 0.02), 40.0, 44.0),
    ]
    said = regime_sentence(FIGURE3, runs)
    assert said == (
        "Inside the paper's regime (gpt2: G(2x) 100 (paper 167), ρ 0.02 (paper 0.0157), κ/R(0) 40 (paper 80), "
        "R(T)/R(0) of AdamW with the least decay 300, largest λ 0.0002, active bounds 50%)."
    )
    outside = regime_sentence(FIGURE3, [made("adamw", 3.162e-3, 18.0, 1.0, weight_decay=0.1)])
    assert outside.startswith(
        "Outside the paper's regime, so this neither supports nor contradicts the paper (gpt2: G(2x) 1 "
    )


def test_a_run_whose_log_does_not_begin_at_initialization_is_not_measured():
    one = made("adamcpr_ip", 1e-3, 18.0)
    assert measured(one) is None
    late = replace(one, dynamics=({"matrices": ["a"]}, {"step": 5, "R": [1.0]}, {"step": 10, "R": [2.0]}))
    zero = replace(one, dynamics=({"matrices": ["a"]}, {"step": 0, "R": [0.0]}, {"step": 10, "R": [2.0]}))
    assert measured(late) is None and measured(zero) is None
    found = measured(with_sizes(one, 2.0, 2.5))
    assert found is not None and (found.grown, found.bound, found.most, found.active, found.largest_lambda) == (
        2.5, 2.0, 1.25, 0.5, 2e-4
    )  # fmt: skip


def test_the_sentence_stands_in_the_table(tmp_path):
    runs = [made("adamw", 3.162e-3, 18.0, 1.0, weight_decay=0.1, size="gpt2s")]
    write_artefact(FIGURE3, "small", runs, tmp_path, expected=40, seeds=2, command="a command")
    assert "Outside the paper's regime" in (tmp_path / "table.md").read_text()
