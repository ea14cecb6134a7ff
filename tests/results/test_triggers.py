"""When κ is set, on runs with made dynamics."""

from dataclasses import replace

from made_runs import artefact, run

from results import Run
from results.layouts import triggers
from results.schema import at_scale

DEFINITION = at_scale(artefact("ip_trigger"), "small")
WARMUP = 10


def triggered(seed: int, steps: dict[str, int | None], **regularizer) -> Run:
    """Return a run with a warm-up of 10 steps whose matrices get their κ at these logged steps."""
    settings = {"reg_step_size": 100, "reg_ema_decay": 0.0} | regularizer
    rows = [{"matrices": list(steps)}]
    for step in range(0, 50, 5):
        there = [at is not None and step >= at for at in steps.values()]
        rows.append(
            {"step": step, "R": [1.0] * len(steps), "kappa": [1.0 if one else None for one in there], "lambda": [0.0] * len(steps)}
        )  # fmt: skip
    made = run("adamcpr_ip", seed, {"perplexity": 1.0}, **settings)
    task = made.config["task"] | {"schedule": {"warmup_steps": WARMUP}, "batch_size": 2}
    return replace(made, config=made.config | {"task": task}, dynamics=tuple(rows))


def test_a_row_is_a_matrix_with_the_step_of_its_bound_in_warm_ups():
    table = triggers.table(DEFINITION, [triggered(1, {"a": 15, "b": None})])
    assert set(table["method"]) == {"every 100 steps (the paper's 10 %)"}
    assert table[["matrix", "warm-ups"]].fillna(-1).values.tolist() == [["a", 1.5], ["b", -1.0]]


def test_methods_are_told_apart_and_summed_up_by_quartiles():
    runs = [triggered(seed, {"a": 10, "b": 20, "c": 40}, reg_step_size=size) for seed in (1, 2) for size in (25, 100)]
    table = triggers.table(DEFINITION, runs)
    rows = triggers.tables(DEFINITION, table, runs)[0].rows.set_index("method")
    assert list(rows["median"]) == ["2.00", "2.00"] and list(rows["matrices with κ"]) == ["6 of 6"] * 2
    assert triggers.figure(DEFINITION, table, runs, "data", "foot").axes[0].get_xlabel().startswith("when κ is set")
    assert len(triggers.panels(DEFINITION, table, runs)) == 1 and triggers.panels(DEFINITION, table[:0], []) == []
