"""Which setting each side of a claim plays, and the findings on the kinds of claims, on runs with chosen values."""

import itertools
import random
from dataclasses import replace

import pytest
from made_runs import ADAMW, CPR, artefact, changed, curve, grid, run

from results import Run
from results.evidence.contenders import (
    Contender,
    choose,
    confirmed,
    contenders,
    most_settings,
    values_of,
)
from results.evidence.direction import findings
from results.evidence.played import play
from results.evidence.tables import finalists_table
from results.schema import Artefact, Control, SameValuesClaim, at_scale
from results.settings import seeds_apart

TUNING, FRESH = (1, 2), tuple(range(101, 109))
SEEDS = (*TUNING, *FRESH)
FIGURE2 = at_scale(artefact("figure2"), "small")
FIGURE_E4, FIGURE_E1, GROKKING = (at_scale(artefact(name), "paper") for name in ("figure_e4", "figure_e1", "grokking"))


def noise(*cell) -> float:
    return random.Random(str(cell)).gauss(0, 0.2)


def starts(means: dict[str, float], seeds=SEEDS) -> list[Run]:
    """Return Figure 2's runs, in which Kappa-WS has these means by warm start and the others 40."""
    return grid(
        lambda name, lr, s, seed: (means.get(s, 40.0) if name == "adamcpr_ws" else 40.0) + noise(s, seed),
        "small",
        seeds,
    )


def on(claim: str, runs: list[Run], definition: Artefact):
    return next(one for one in findings(play(definition, runs), complete=True) if one.claim == claim)


def test_a_claimed_best_value_is_compared_with_the_best_other_one():
    means = {"1x": 50.0, "2x": 53.0, "4x": 51.0}
    ahead = on("cifar-2x", starts(means), FIGURE2)
    assert ahead.outcome == "ahead" and ahead.difference == pytest.approx(2, abs=0.3)  # 4x is the best other one
    assert "AdamCPR Kappa-WS (2x) 5" in ahead.said and "AdamCPR Kappa-WS (other than 2x) 5" in ahead.said
    behind = on("cifar-2x", starts({"1x": 50.0, "2x": 53.0, "4x": 56.0}), FIGURE2)
    assert behind.outcome == "behind" and behind.difference == pytest.approx(-3, abs=0.3)


def same_values(value: str = "2x") -> Artefact:
    claim = SameValuesClaim(id="same", kind="same_values", text="-", published="-", left="adamcpr_ws", value=value)
    return changed(FIGURE2, claims=[claim])


def with_control(means: dict[str, float]) -> list[Run]:
    """Return Figure 2's runs with a control: AdamW without decay is 4 worse than with it."""

    def value(name, lr, s, seed):
        base = means.get(s, 40.0) if name == "adamcpr_ws" else 36.0 if (name, s) == ("adamw", 0) else 40.0
        return base + noise(name, s, seed)

    return grid(value, "small", SEEDS)


@pytest.mark.parametrize(
    ("means", "outcome", "farthest"),
    [
        ({"1x": 50.0, "2x": 50.0, "4x": 50.1}, "the same", None),
        ({"1x": 50.0, "2x": 50.0, "4x": 44.0}, "different", "4x"),
        ({"1x": 55.0, "2x": 50.0, "4x": 48.0}, "different", "1x"),
    ],
)
def test_values_are_the_same_if_the_one_that_differs_most_is(means, outcome, farthest):
    finding = on("same", with_control(means), same_values())
    assert finding.outcome == outcome
    assert "half of what the control shows" in finding.said
    assert farthest is None or finding.said.startswith(f"AdamCPR Kappa-WS ({farthest})")


def test_values_without_a_control_that_is_told_apart_are_not_the_same():
    finding = on("same", starts({"1x": 50.0, "2x": 50.0, "4x": 50.0}), same_values())
    assert finding.outcome == "not resolved" and "without a control" in finding.said


def test_each_value_of_a_same_values_claim_is_a_contender_the_claimed_one_first():
    definition = changed(same_values(), control=None)
    (claim,) = definition.claims
    columns = [one.column for one in values_of(definition, claim, starts({}, TUNING))]
    assert columns == ["2x", "1x", "4x"]
    assert [one.column for one in values_of(definition, claim, [])] == ["2x"]  # before any run
    assert len(contenders(definition, starts({}, TUNING))) == 3


def test_settings_that_two_contenders_share_are_counted_once():
    """Kappa-WS plays 2x or another value, and AdamW plays no decay or another one."""
    every = contenders(FIGURE2, [])
    assert len(every) == 7 and most_settings(every) == 5
    played = {choose(FIGURE2, one, starts({"2x": 50.0}, TUNING))[0].run_id for one in every}
    assert len(played) <= 5


# ---- Several panels


def schedules(base: dict[float, float], ws: float, seeds=SEEDS) -> list[Run]:
    """Return Figure E.4's runs of WS 1x and of AdamW's four schedules, with these accuracies by final factor."""
    runs = []
    for lr, seed in itertools.product((1e-3, 3.162e-3), seeds):
        shared = noise(lr, seed)
        runs.append(run("adamcpr_ws", seed, {"top1_accuracy": ws + shared}, lr=lr, warm_start="1x"))
        for factor, mean in base.items():
            final = {"top1_accuracy": mean + shared + noise(factor, lr, seed) / 10}
            runs.append(run("adamw_schedule", seed, final, lr=lr, final_factor=factor, weight_decay=0.1))
    return runs


@pytest.mark.parametrize(("ws", "outcome"), [(76.0, "ahead"), (74.0, "behind")])
def test_panels_of_one_side_are_one_method_that_plays_its_best_setting(ws, outcome):
    """The best schedule, x10, is compared with WS. The three others neither help nor hurt WS."""
    (claim,) = FIGURE_E4.claims
    runs = schedules({0.1: 70.0, 0.01: 60.0, 10: 75.0, 100: 50.0}, ws)
    finding = on(claim.id, runs, FIGURE_E4)
    assert finding.outcome == outcome and finding.difference == pytest.approx(ws - 75, abs=0.1)
    rows = finalists_table(play(FIGURE_E4, runs)).rows
    chosen = dict(zip(rows["method"], rows["chosen on the tuning seeds"], strict=True))
    assert chosen["Kappa-WS"].startswith("lr 1e-")
    (others,) = (setting for name, setting in chosen.items() if name != "Kappa-WS")
    assert others.startswith("AdamW, increasing to x10, lr 1e-") and others.endswith(", 0.1")


def test_a_side_that_is_best_at_its_own_learning_rate_is_compared_there():
    """A method needs no learning rate in common with the other."""
    runs = schedules({0.1: 70.0, 0.01: 60.0, 10: 75.0, 100: 50.0}, 76.0)
    better = [
        run("adamw_schedule", seed, {"top1_accuracy": 90.0 + noise(seed)}, lr=1e-2, final_factor=100, weight_decay=0.1)
        for seed in SEEDS
    ]
    (claim,) = FIGURE_E4.claims
    finding = on(claim.id, [*runs, *better], FIGURE_E4)
    assert finding.outcome == "behind" and finding.difference == pytest.approx(-14, abs=0.6)


def adaptive(gain: float) -> list[Run]:
    """Return E.1's runs in which adaptive bounds gain `gain` points, and Kappa-WS 4x is 8 points behind 1x."""
    runs = []
    for seed, mode in itertools.product(SEEDS, (False, "transition")):

        def add(name, mean, seed=seed, mode=mode, **settings):
            accuracy = mean + noise(name, seed, mode) + (gain if mode else 0)
            runs.append(run(name, seed, {"top1_accuracy": accuracy}, adaptive=mode, **settings))

        add("adamcpr_ws", 70.0, warm_start="1x")
        add("adamcpr_ws", 62.0, warm_start="4x")
        add("adamcpr_k", 65.0, kappa_init_param=0.01)
        add("adamcpr_ki0", 67.0, kappa_init_param=4)
    return runs


@pytest.mark.parametrize(("gain", "outcome"), [(0.2, "the same"), (6.0, "different"), (-6.0, "different")])
def test_two_sides_of_several_panels_are_the_same_within_half_of_what_the_control_shows(gain, outcome):
    """The control, 4x, is 8 points behind, so that the margin is a little below 4 points."""
    definition = changed(FIGURE_E1, control=Control(panel="ws", value="4x"))
    finding = on("cifar-adaptive", adaptive(gain), definition)
    assert finding.outcome == outcome and finding.difference == pytest.approx(gain, abs=0.3)


# ---- Cells that another panel's score chooses


def test_the_cell_is_chosen_by_the_panel_that_the_claim_names():
    """Figure K.1: the setting that is best on the questions is compared on the arithmetic."""
    runs = []
    for seed in SEEDS:
        for name, key, settings in (
            ("adamw", "weight_decay", (1e-3, 1e-2)),
            ("adamcpr_ws", "warm_start", ("1x", "2x")),
        ):
            for number, setting in enumerate(settings):
                forgets = {"adamw": -1.0, "adamcpr_ws": -3.0}[name] if number else 5.0
                final = {
                    "accuracy_change": 10.0 * number + noise(seed, setting),
                    "language_accuracy_change": forgets + noise(seed, name),
                }
                runs.append(run(name, seed, final, lr=1.778e-3, **{key: setting}))
    mini = at_scale(artefact("figure_k1"), "mini")
    small = replace_scale(mini)
    finding = on("lora-forgets-less", runs, small)
    assert finding.outcome == "behind" and finding.difference == pytest.approx(-2, abs=0.3)
    left, right = (one for one in contenders(small, runs))
    assert (left.names, left.by) == (("ws-text",), ("ws",)) and (right.names, right.by) == (("adamw-text",), ("adamw",))
    assert {one.config["regularizer"]["warm_start"] for one in choose(small, left, runs)} == {"2x"}


def replace_scale(definition: Artefact) -> Artefact:
    """Return the artefact at a scale that decides claims, with the panels and claims of this one."""
    copy = definition.model_copy()
    copy._scale = "small"
    return copy


# ---- Curves


def test_the_soonest_method_of_a_side_is_the_one_by_the_median_of_the_tuning_seeds():
    runs = [curve(CPR, seed, 40) for seed in SEEDS]
    at = {0: 32, 1: 24, 2: None}
    for seed in SEEDS:
        for number, method in enumerate(ADAMW):
            early = seed in FRESH and number == 2  # the third is soonest on the fresh seeds, which choose nothing
            runs.append(curve(method, seed, 8 if early else at[number]))
    tuning, confirm = seeds_apart(GROKKING, runs)
    side = next(one for one in contenders(GROKKING, tuning) if len(one.names) == 3)
    chosen = choose(GROKKING, side, tuning)
    assert {one.config["regularizer"]["weight_decay"] for one in chosen} == {0.1}
    assert [one.seed for one in confirmed(chosen, confirm)] == list(FRESH)
    assert on("grokking", runs, GROKKING).outcome == "behind"
    rows = finalists_table(play(GROKKING, runs)).rows
    assert rows["chosen on the tuning seeds"].tolist() == ["AdamCPR kI0 0.8, L2", "AdamW, weight decay 0.1"]


def test_a_method_that_never_arrives_is_not_the_soonest():
    runs = [curve(method, seed, at) for seed in TUNING for method, at in zip(ADAMW, (None, None, 80), strict=True)]
    (chosen,) = {
        one.config["regularizer"]["weight_decay"]
        for one in choose(GROKKING, Contender(tuple(method.title for method in ADAMW)), runs)
    }
    assert chosen == 1.0


# ---- Seeds


def test_without_fresh_seeds_the_same_runs_choose_and_score():
    runs = starts({}, TUNING)
    assert seeds_apart(FIGURE2, runs) == (runs, runs)
    assert finalists_table(play(FIGURE2, runs)) is None


def test_a_layout_whose_claims_name_their_settings_uses_every_seed():
    """Figure 1's runs at small scale have Figure 3's fresh seeds."""
    figure1 = at_scale(artefact("figure1"), "small")
    runs = [replace(one) for one in starts({})]
    assert seeds_apart(figure1, runs) == (runs, runs)


def test_a_side_without_a_setting_that_always_ended_plays_none():
    runs = grid(
        lambda name, lr, s, seed: None if name == "adamcpr_ip" and seed == 2 else 50.0 + noise(s, seed), "small", SEEDS
    )
    assert choose(FIGURE2, Contender(("adamcpr_ip",)), [one for one in runs if one.seed in TUNING]) == []
    finding = on("cifar-ip", runs, FIGURE2)
    assert finding.outcome == "numbers only" and "no setting without divergence" in finding.said
