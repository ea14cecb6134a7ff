"""Claims that treat several panels as one method, and claims that two methods are the same."""

import itertools
import random

from made_runs import artefact, run

from results import Run
from results.artefact import at_scale
from results.claims import judge


def schedules(value) -> list[Run]:
    """Return Figure E.4's runs of WS 1x and four schedules, with accuracy value(name, factor, lr, seed)."""
    runs = []
    for lr, seed in itertools.product((1e-3, 3.162e-3, 1e-2), (1, 2, 3)):
        runs.append(run("adamcpr_ws", seed, {"top1_accuracy": value("ws", 0, lr, seed)}, lr=lr, warm_start="1x"))
        for factor in (0.1, 0.01, 10, 100):
            final = {"top1_accuracy": value("schedule", factor, lr, seed)}
            runs.append(run("adamw_schedule", seed, final, lr=lr, final_factor=factor, weight_decay=0.1))
    return runs


def verdict_on_schedules(value):
    (verdict,) = judge(at_scale(artefact("figure_e4"), "mini"), "mini", schedules(value), complete=True)
    return verdict


def test_panels_of_one_side_are_one_method_with_all_their_columns():
    """The best schedule, x10, is compared with WS. The three others neither help nor hurt WS."""
    base = {0.1: 70.0, 0.01: 60.0, 10: 75.0, 100: 50.0}
    noise = {
        (lr, seed): random.Random(f"{lr} {seed}").gauss(0, 0.3) for lr in (1e-3, 3.162e-3, 1e-2) for seed in (1, 2, 3)
    }
    better = verdict_on_schedules(
        lambda name, factor, lr, seed: (76.0 if name == "ws" else base[factor]) + noise[lr, seed]
    )
    assert better.verdict == "holds" and "+1.00 [+1.00, +1.00] over 9 pairs" in better.ours
    worse = verdict_on_schedules(
        lambda name, factor, lr, seed: (74.0 if name == "ws" else base[factor]) + noise[lr, seed]
    )
    assert worse.verdict == "does not hold" and "-1.00 [-1.00, -1.00] over 9 pairs" in worse.ours


def adaptive(gain: float) -> str:
    """Return the verdict on E.1's claim that adaptive bounds gain nothing, if they gain `gain` points."""
    runs = []
    for lr, seed, mode in itertools.product((1e-3, 3.162e-3, 1e-2), (1, 2, 3), (False, "transition")):
        accuracy = 70 + random.Random(f"{lr} {seed}").gauss(0, 1) + (gain if mode else 0)
        runs.append(run("adamcpr_ws", seed, {"top1_accuracy": accuracy}, lr=lr, adaptive=mode, warm_start="1x"))
        runs.append(
            run("adamcpr_k", seed, {"top1_accuracy": accuracy - 5}, lr=lr, adaptive=mode, kappa_init_param=0.01)
        )
        runs.append(run("adamcpr_ki0", seed, {"top1_accuracy": accuracy - 3}, lr=lr, adaptive=mode, kappa_init_param=4))
    verdicts = {v.claim: v.verdict for v in judge(at_scale(artefact("figure_e1"), "mini"), "mini", runs, complete=True)}
    assert verdicts["cifar-ws-k"] == "holds"
    return verdicts["cifar-adaptive"]


def test_two_methods_are_the_same_within_a_margin_or_beyond_it():
    assert adaptive(0.3) == "holds"
    assert adaptive(2.0) == adaptive(-2.0) == "does not hold"


def related(amos_at_its_best: float):
    """Return the verdict on E.8's claim. WS leads AdaDecay by a point, and AMOS has its own learning rate."""
    runs = []
    for lr, seed in itertools.product((1e-3, 3.162e-3, 1e-2), (1, 2, 3)):
        accuracy = 70 + random.Random(f"{lr} {seed}").gauss(0, 1)
        runs.append(run("adamcpr_ws", seed, {"top1_accuracy": accuracy}, lr=lr, warm_start="1x"))
        runs.append(run("adadecay", seed, {"top1_accuracy": accuracy - 1}, lr=lr, weight_decay=0.1, alpha=1))
        runs.append(run("awd", seed, {"top1_accuracy": accuracy - 2}, lr=lr, weight_decay=0.01))
        runs.append(run("rescaling", seed, {"top1_accuracy": accuracy - 2}, lr=lr, factor=1))
        amos = amos_at_its_best if lr == 3.162e-3 else 50.0
        runs.append(run("amos", seed, {"top1_accuracy": amos}, lr=10 * lr, extra_l2=1e-4))
    (verdict,) = judge(at_scale(artefact("figure_e8"), "mini"), "mini", runs, complete=True)
    assert "over 9 pairs" in verdict.ours
    return verdict


def test_a_method_whose_best_learning_rate_gives_no_pairs_still_counts_by_its_best_cell():
    assert related(60.0).verdict == "holds"
    ahead = related(90.0)
    assert ahead.verdict == "undecided" and "against 90.00" in ahead.ours
