"""The verdicts on the paper's claims, on runs with chosen values."""

import itertools
import math
import re
import statistics

import pytest
from made_runs import (
    ADAMW,
    CPR,
    FIGURE2,
    GROKKING,
    LRS,
    SEEDS,
    SETTINGS,
    artefact,
    changed,
    curve,
    either_metric,
    figure2_data,
    grid,
    measured_by,
    noisy,
    run,
)
from scipy import stats

from results import Run
from results.cells import best_table
from results.claims import judge
from results.schema import Artefact, at_scale


def judged(claim: str, runs: list[Run], definition: Artefact = FIGURE2, complete: bool = True) -> tuple[str, str]:
    """The verdict on one claim, and what is said with it."""
    definition = changed(definition, claims=[one for one in definition.claims if one.id == claim])
    (verdict,) = judge(definition, runs, complete)
    return verdict.verdict, verdict.ours


@pytest.mark.parametrize(
    ("better", "lead", "verdict"),
    [
        ("higher", [0.5, 0.5, 0.5], "holds"),
        ("higher", [-0.5, -0.5, -0.5], "does not hold"),
        ("lower", [0.5, 0.5, 0.5], "does not hold"),
        ("lower", [-0.5, -0.5, -0.5], "holds"),
        ("higher", [-0.9, 0.1, 1.1], "undecided"),
        ("higher", [-1.1, -0.1, 0.9], "undecided"),
        ("higher", [0, 0, 0], "undecided"),
    ],
)
def test_best_against_best_follows_the_sign_of_the_metric(better, lead, verdict):
    runs = grid(lambda name, lr, setting, seed: noisy(lr, seed) + (lead[seed - 1] if name == "adamcpr_ws" else 0))
    assert judged("cifar-ws", runs, measured_by(better))[0] == verdict


@either_metric
def test_the_pairs_are_seeds_of_each_learning_rate_at_the_column_that_is_best_for_the_other_seeds(better):
    sign, differences, columns = 1 if better == "higher" else -1, [], set()
    for lr, seed in itertools.product(LRS, SEEDS):
        played = {}
        for name in ("adamcpr_ws", "adamw"):
            others = [other for other in SEEDS if other != seed]
            column = max(
                SETTINGS[name], key=lambda s, n=name: sign * statistics.mean(noisy(n, lr, s, other) for other in others)
            )
            played[name] = noisy(name, lr, column, seed)
            columns.add(column)
        differences.append(sign * (played["adamcpr_ws"] - played["adamw"]))
    assert len(columns) > 3  # the best column is not the same everywhere
    p = stats.wilcoxon(differences).pvalue
    said = judged("cifar-ws", grid(noisy), measured_by(better))[1]
    assert f"median difference {statistics.median(differences):+.2f} [" in said
    assert said.endswith(f"over 9 pairs; p = {p:.3f}, Holm {p:.3f}")  # the only claim here


@pytest.mark.slow
def test_a_method_with_more_columns_has_no_better_chance():
    """Compare AdamW's best of four columns with IP's only one, 100 times, on pure noise."""
    verdicts = []
    for trial in range(100):
        runs = grid(lambda *cell, trial=trial: noisy(*cell, trial), seeds=(1, 2, 3, 4))
        verdicts.append(judged("cifar-ip", runs)[0])
    assert verdicts.count("does not hold") + verdicts.count("holds") <= 12  # 5 expected of a test at 5 %


def test_a_significant_lead_is_undecided_when_the_other_method_has_the_best_cell():
    leads = dict(zip(itertools.product(LRS, SEEDS), (3, 4, 5, 6, 7, 8, 0.1, 0.2, -2), strict=True))
    runs = grid(lambda name, lr, setting, seed: 5000 * lr + (leads[lr, seed] if name == "adamcpr_ws" else 0))
    verdict, ours = judged("cifar-ws", runs)
    assert verdict == "undecided"
    assert float(ours.rpartition("Holm ")[2]) < 0.05


def test_six_pairs_are_the_fewest_that_can_be_significant():
    def least(pairs):
        outcomes = itertools.product((-1, 1), repeat=pairs)
        signed_rank = min(
            stats.wilcoxon([sign * size for size, sign in enumerate(signs, 1)]).pvalue for signs in outcomes
        )
        return min(signed_rank, *(stats.binomtest(wins, pairs).pvalue for wins in range(pairs + 1)))

    assert least(5) >= 0.05 > least(6)
    ahead = {"adamw": 70, "adamcpr_ip": 75, "adamcpr_ws": 80}
    runs = grid(lambda name, lr, setting, seed: ahead[name] + seed)
    assert judged("cifar-ws", [r for r in runs if r.config["seed"] < 3])[0] == "holds"  # 3 learning rates x 2 seeds
    assert judged("cifar-ws", [r for r in runs if r.config["seed"] < 2]) == (
        "too few seeds to say",
        "81.00 against 71.00; 0 pairs",
    )


def test_a_pair_needs_both_runs():
    runs = grid(noisy, seeds=(1, 2, 3, 4))
    theirs = {"adamw": (1, 2, 3), "adamcpr_ws": (2, 3, 4), "adamcpr_ip": ()}
    runs = [run for run in runs if run.config["seed"] in theirs[run.config["regularizer"]["name"]]]
    assert "over 6 pairs" in judged("cifar-ws", runs)[1]

    def diverging(name, lr, setting, seed):
        return None if name == "adamw" and lr == LRS[0] and seed == 3 else noisy(name, lr, setting, seed)

    assert "over 6 pairs" in judged("cifar-ws", grid(diverging))[1]  # no cell of that learning rate is complete


@either_metric
def test_a_cell_with_a_diverged_run_is_never_the_best(better):
    def value(name, lr, setting, seed):
        lead = {"2x": 20.0 if seed != 2 else None, "4x": 10.0}.get(setting, 0.0)
        return None if lead is None else 50.0 + lead if better == "higher" else 50.0 - lead

    best = {"higher": "60.00", "lower": "40.00"}[better]
    assert judged("cifar-ws", grid(value), measured_by(better))[1].startswith(
        f"{best} against 50.00; median difference +10.00 [+10.00, +10.00] over 9 pairs"
    )
    table = best_table(measured_by(better), figure2_data(value)).set_index("method")["best of ours"]
    assert table["AdamCPR Kappa-WS"] == f"{best} ± 0.00 (lr 1e-3.0, 4x)"


@pytest.mark.parametrize("claim", [claim.id for claim in FIGURE2.claims])
def test_a_claim_whose_runs_are_missing_or_diverged_has_no_verdict(claim):
    assert judged(claim, grid(noisy), complete=False) == ("runs missing", "")
    assert judged(claim, grid(lambda *cell: None)) == ("runs missing", "")


def fisher(table: list[tuple[int, int]]) -> float:
    """Return the two-sided p: the probability of tables with these margins that are at most as likely."""
    (a, b), (c, d) = table
    likelihood = {k: math.comb(a + b, k) * math.comb(c + d, a + c - k) for k in range(a + c + 1)}
    return sum(n for n in likelihood.values() if n <= likelihood[a]) / math.comb(a + b + c + d, a + c)


@either_metric
@pytest.mark.parametrize(
    ("ws", "adamw", "verdict"), [(9, 3, "holds"), (0, 9, "does not hold"), (6, 6, "undecided"), (9, 9, "undecided")]
)
def test_cells_are_near_the_best_within_a_point_of_the_reference_s_best(ws, adamw, verdict, better):
    places = {name: list(itertools.product(LRS, settings)) for name, settings in SETTINGS.items()}

    def value(name, lr, setting, seed):
        if name == "adamcpr_ip":
            return 80.0
        place = places[name].index((lr, setting))
        near = {
            "adamw": 80.0 if place == 0 else 79.1,
            "adamcpr_ws": 79.1 + place,
        }  # most of WS is far from its own best
        accuracy = near[name] if place < {"adamw": adamw, "adamcpr_ws": ws}[name] else 78.9
        return accuracy if better == "higher" else 160 - accuracy

    p = fisher([(ws, 9 - ws), (adamw, 12 - adamw)])
    said = f"{ws / 9:.0%} of 9 cells against {adamw / 12:.0%} of 12; p = {p:.3f}, Holm {p:.3f}"
    assert judged("cifar-robust", grid(value), measured_by(better)) == (verdict, said)


@either_metric
@pytest.mark.parametrize(
    ("leads", "verdict"),
    [
        ({"1x": -0.9, "2x": 0.0, "4x": -1.2}, "holds"),
        ({"1x": 0.9, "2x": 0.0, "4x": -1.2}, "does not hold"),
        ({"1x": -0.9, "2x": 0.0, "4x": 0.9}, "does not hold"),
        ({"1x": 0.0, "2x": 0.0, "4x": -1.2}, "undecided"),
    ],
)
def test_a_value_is_the_best_if_it_beats_every_other_over_learning_rates_and_seeds(leads, verdict, better):
    sign = 1 if better == "higher" else -1
    runs = grid(lambda name, lr, setting, seed: noisy(lr, seed) + sign * leads.get(setting, 9.0))
    found, said = judged("cifar-2x", runs, measured_by(better))
    assert found == verdict
    assert f"2x - 4x {-leads['4x']:+.2f} [" in said
    few = [run for run in runs if run.config["seed"] == 2]
    assert judged("cifar-2x", few, measured_by(better))[0] == "too few seeds to say"


def test_a_cell_with_a_diverged_run_is_not_near_the_best():
    runs = grid(lambda name, lr, setting, seed: None if name == "adamcpr_ws" and seed > 1 else 80.0)
    verdict, ours = judged("cifar-robust", runs)
    assert verdict == "does not hold"
    assert ours.startswith("0% of 9 cells against 100% of 12")


def test_a_cell_exactly_a_point_behind_is_near():
    runs = grid(
        lambda name, lr, setting, seed: 64.01 if name == "adamw" else 63.01
    )  # in floats 64.01 - 63.01 is more than 1
    assert judged("cifar-robust", runs)[1].startswith("100% of 9 cells")


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "said"),
    [
        ([40] * 6, (80, None, 48), "holds", "sooner in 6 of 6 seeds; p = 0.031, Holm 0.031"),
        ([40] * 6, (80, None, 24), "does not hold", "sooner in 0 of 6 seeds; p = 0.031, Holm 0.031"),
        ([None] * 6, (80, None, None), "does not hold", "sooner in 0 of 6 seeds; p = 0.031, Holm 0.031"),
        ([80] * 6, (None, None, None), "holds", "sooner in 6 of 6 seeds; p = 0.031, Holm 0.031"),
        ([None] * 6, (None, None, None), "undecided", "sooner in 0 of 6 seeds; p = 1.000, Holm 1.000"),
        ([40] * 6, (40, None, 80), "undecided", "sooner in 0 of 6 seeds; p = 1.000, Holm 1.000"),
        ([40] * 3 + [None] * 3, (48, 48, 48), "undecided", "sooner in 3 of 6 seeds; p = 1.000, Holm 1.000"),
        (
            [40] * 6 + [48] * 2,
            (48, 48, 48),
            "holds",
            "sooner in 6 of 8 seeds; p = 0.031, Holm 0.031",
        ),  # ties carry no information
        ([40] * 5, (80, 80, 80), "too few seeds to say", "sooner in 5 of 5 seeds"),
    ],
)
def test_sooner_is_against_the_soonest_of_the_others_at_each_seed(ours, theirs, verdict, said):
    runs = [curve(CPR, seed, reached) for seed, reached in enumerate(ours)]
    runs += [curve(method, seed, at) for seed in range(len(ours)) for method, at in zip(ADAMW, theirs, strict=True)]
    found, ours = judged("grokking", runs, GROKKING)
    assert (found, re.sub("; median lead [^;]*", "", ours)) == (verdict, said)
    assert judged("grokking", runs, GROKKING, complete=False) == ("runs missing", "")


def test_what_is_forgotten_is_compared_where_the_questions_are_answered_best():
    """A bound that is set early learns nothing and forgets nothing, so its cell must not count."""
    runs = []
    for lr, seed in itertools.product((1.778e-3, 3.162e-3), SEEDS):
        for decay, learned, forgotten in ((0.001, 15.0, -2.0), (0.1, 20.0, -10.0)):
            finals = {"accuracy_change": learned + seed / 10, "language_accuracy_change": forgotten}
            runs.append(run("adamw", seed, finals, lr=lr, weight_decay=decay))
        for start, learned, forgotten in (("1x", 0.0, 0.0), ("4x", 17.0, -5.0 - seed / 10)):
            finals = {"accuracy_change": learned + seed / 10, "language_accuracy_change": forgotten}
            runs.append(run("adamcpr_ws", seed, finals, lr=lr, warm_start=start))
    verdict, ours = judged("lora-forgets-less", runs, at_scale(artefact("figure_k1"), "mini"))
    assert verdict == "holds" and ours.startswith(
        "-5.20 against -10.00; median difference +4.80 [+4.70, +4.90] over 6 pairs"
    )
