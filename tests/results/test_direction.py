"""Findings on claims, on runs with chosen values: settings are chosen on some seeds and compared on others."""

import math
import random

import pytest
from made_runs import ADAMW, CPR, artefact, changed, curve, either_metric, grid, measured_by, run

from results import Run
from results.evidence.direction import control_sentence, findings
from results.evidence.finding import from_csv, to_csv
from results.evidence.played import play
from results.evidence.tables import finalists_table
from results.schema import Artefact, SameBestClaim, SameValuesClaim, at_scale

FRESH = tuple(range(101, 109))
FIGURE2 = at_scale(artefact("figure2"), "small")
SEEDS = (1, 2)


def found(claim: str, runs: list[Run], definition: Artefact = FIGURE2, complete: bool = True):
    """The finding on one claim, with the others left out."""
    definition = changed(definition, claims=[one for one in definition.claims if one.id == claim])
    (finding,) = findings(play(definition, runs), complete)
    return finding


def noise(seed: int, *what) -> float:
    return random.Random(f"{seed} {what}").gauss(0, 0.3)


def leads(value, sign: int = 1, seeds=SEEDS, fresh=FRESH) -> list[Run]:
    """Return Figure 2's runs on tuning and fresh seeds with the accuracy sign x value(name, setting, seed) + noise."""
    return grid(
        lambda name, lr, setting, seed: 50 + sign * value(name, setting, seed) + noise(seed, name),
        "small",
        seeds=(*seeds, *fresh),
    )


@either_metric
@pytest.mark.parametrize(("lead", "outcome"), [(3.0, "ahead"), (-3.0, "behind"), (0.0, "not resolved")])
def test_a_claim_follows_the_sign_of_a_lead_on_fresh_seeds(better, lead, outcome):
    sign = 1 if better == "higher" else -1
    runs = leads(lambda name, setting, seed: lead if name == "adamcpr_ws" else 0.0, sign)
    finding = found("cifar-ws", runs, measured_by(better, FIGURE2))
    assert finding.outcome == outcome
    assert finding.low <= lead <= finding.high and finding.pairs == 8
    assert ("would have been seen" in finding.said) == (outcome == "not resolved")


def test_a_setting_is_chosen_on_the_tuning_seeds_alone():
    """WS 4x is best on the tuning seeds and bad on the fresh ones, so the claim is lost."""

    def value(name, setting, seed):
        if name != "adamcpr_ws":
            return 0.0
        tuned = seed in SEEDS
        return {"1x": 1.0, "2x": 2.0, "4x": 3.0 if tuned else -5.0}[setting]

    finding = found("cifar-ws", leads(value))
    assert finding.outcome == "behind" and finding.difference == pytest.approx(-5, abs=0.5)
    settings = finalists_table(play(FIGURE2, leads(value))).rows.set_index("method")["chosen on the tuning seeds"]
    assert settings["AdamCPR Kappa-WS"].endswith("4x")


def test_a_half_of_the_examples_chooses_and_the_other_is_reported():
    def both(name, lr, setting, seed):
        good = setting == "2x"
        return {"top1_accuracy": 50.0, "top1_accuracy_selection": 60.0 if good else 50.0,
                "top1_accuracy_report": (45.0 if good else 55.0) + noise(seed, name)}  # fmt: skip

    runs = [
        run(one.regularizer, one.seed, both(one.regularizer, 0, one.config["regularizer"].get("warm_start"), one.seed),
            lr=one.config["lr"], **{k: v for k, v in one.config["regularizer"].items() if k != "name"})
        for one in leads(lambda *_: 0.0)
    ]  # fmt: skip
    assert found("cifar-ws", runs).difference == pytest.approx(-10, abs=0.5)


def test_the_same_seeds_choose_and_score_at_mini_scale_so_nothing_is_decided():
    runs = grid(lambda name, lr, setting, seed: 50 + (9 if name == "adamcpr_ws" else 0) + noise(seed, name))
    finding = found("cifar-ws", runs, at_scale(artefact("figure2"), "mini"))
    assert (finding.outcome, finding.p) == ("numbers only", None)
    assert finding.low < 9 < finding.high and "over 3 seeds" in finding.said


def test_without_all_runs_nothing_is_said():
    finding = found("cifar-ws", leads(lambda *_: 0.0), complete=False)
    assert (finding.outcome, finding.said) == ("runs missing", "")


def test_a_diverged_finalist_leaves_no_difference_and_is_named():
    runs = grid(
        lambda name, lr, setting, seed: None if name == "adamw" and seed == 103 else 50.0 + noise(seed, name),
        "small",
        seeds=(*SEEDS, *FRESH),
    )
    finding = found("cifar-ws", runs)
    assert finding.outcome == "numbers only" and finding.difference is None
    assert "1 of 8 diverged" in finding.said


def test_a_setting_with_a_diverged_tuning_run_is_not_chosen():
    def value(name, lr, setting, seed):
        if name == "adamcpr_ws" and setting == "4x":
            return None if seed == 2 else 90.0
        return 50.0 + noise(seed, name)

    finding = found("cifar-ws", grid(value, "small", seeds=(*SEEDS, *FRESH)))
    assert finding.outcome == "not resolved" and abs(finding.difference) < 1


def test_holm_corrects_over_the_claims_of_an_artefact():
    runs = leads(lambda name, setting, seed: {"adamcpr_ws": 0.45, "adamcpr_ip": 0.45}.get(name, 0.0))
    alone = found("cifar-ws", runs)
    together = next(one for one in findings(play(FIGURE2, runs), True) if one.claim == "cifar-ws")
    assert together.p == alone.p == alone.p_holm < together.p_holm


@pytest.mark.slow
def test_null_data_decide_at_most_as_often_as_the_level_whatever_the_number_of_settings():
    """AdamW has four settings a learning rate and Kappa-IP one; nothing differs."""
    decided, trials = 0, 300
    for trial in range(trials):
        runs = grid(
            lambda *cell, trial=trial: random.Random(f"{cell} {trial}").gauss(80, 1), "small", seeds=(*SEEDS, *FRESH)
        )
        decided += found("cifar-ip", runs).outcome != "not resolved"
    assert decided / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.slow
def test_a_lead_of_one_and_a_half_deviations_is_found_with_the_stated_power():
    seen, trials = 0, 200
    for trial in range(trials):

        def value(name, lr, setting, seed, trial=trial):
            own = random.Random(f"{name} {lr} {setting} {seed} {trial}").gauss(0, 1 / math.sqrt(2))
            return 80 + own + (1.5 if name == "adamcpr_ip" else 0)

        seen += found("cifar-ip", grid(value, "small", seeds=(*SEEDS, *FRESH))).outcome == "ahead"
    assert seen / trials > 0.9 - 2 * math.sqrt(0.9 * 0.1 / trials)  # power(1.5, 8) is 0.96, less the choice among noise


def test_a_control_that_is_not_told_apart_says_that_nothing_can_be_decided():
    runs = leads(lambda name, setting, seed: -4.0 if (name, setting) == ("adamw", 0) else 0.0)
    assert "is told apart" in control_sentence(play(FIGURE2, runs))
    assert "can't decide" in control_sentence(play(FIGURE2, leads(lambda *_: 0.0)))
    assert control_sentence(play(changed(FIGURE2, control=None), runs)) == ""


@pytest.mark.parametrize(
    ("lead", "control", "outcome"),
    [(0.0, -4.0, "the same"), (3.5, -4.0, "different"), (1.9, -4.0, "not resolved"), (0.0, 0.0, "not resolved")],
)
def test_methods_are_the_same_within_half_of_what_the_control_shows(lead, control, outcome):
    same = SameBestClaim(id="same", kind="same_best", text="-", published="-", left="adamcpr_ws", right="adamw")
    runs = leads(
        lambda name, setting, seed: control if (name, setting) == ("adamw", 0) else lead * (name == "adamcpr_ws")
    )
    finding = found("same", runs, changed(FIGURE2, claims=[same]))
    assert finding.outcome == outcome
    assert ("without a control" in finding.said) == (control == 0)


@pytest.mark.parametrize(
    ("lead", "outcome"), [({}, "the same"), ({"4x": 3.5}, "different"), ({"4x": 1.9}, "not resolved")]
)
def test_values_are_the_same_if_all_are_and_different_if_one_is(lead, outcome):
    same = SameValuesClaim(id="same", kind="same_values", text="-", published="-", left="adamcpr_ws", value="1x")

    def value(name, setting, seed):
        own = random.Random(f"{seed} {setting}").gauss(0, 0.3)
        return own + (-4.0 if (name, setting) == ("adamw", 0) else lead.get(setting, 0.0))

    runs = leads(value, seeds=(*SEEDS, *FRESH), fresh=())  # every setting on every seed
    assert found("same", runs, changed(FIGURE2, claims=[same])).outcome == outcome


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"), [(40, (80, None, 72), "ahead"), (None, (80, None, 24), "behind")]
)
def test_sooner_is_by_the_log_rank_test_against_the_method_that_is_soonest_on_the_tuning_seeds(ours, theirs, outcome):
    definition = at_scale(artefact("grokking"), "paper")
    seeds = (*range(1, 7), *range(101, 111))
    runs = [curve(CPR, seed, ours) for seed in seeds]
    runs += [curve(method, seed, at) for seed in seeds for method, at in zip(ADAMW, theirs, strict=True)]
    finding = found("grokking", runs, definition)
    assert finding.outcome == outcome and finding.p < 0.001
    assert f"reached by {10 if ours else 0} of 10" in finding.said


def test_findings_survive_a_file_and_older_verdicts_are_left_out():
    made = findings(play(FIGURE2, leads(lambda name, setting, seed: 3.0 if name == "adamcpr_ws" else 0.0)), True)
    again = from_csv(to_csv(made))
    assert [one.outcome for one in again] == [one.outcome for one in made]
    assert again[0].difference == pytest.approx(made[0].difference)
    assert from_csv("claim,text,published,ours,verdict\na,b,c,d,holds\n") == []
    assert from_csv("") == []
