"""`layout: transfer`: the best learning rate of each model shape and its distance from the tuned one."""

from dataclasses import replace

from made_runs import artefact, run

from results import Run, write_artefact
from results.layouts import transfer
from results.report.sections import COMMITTED, RECORDS, section
from results.schema import at_scale

TRANSFER = at_scale(artefact("transfer"), "mini")
TUNED, NARROW = (96, 3), (48, 3)


def made(lr: float, score: float | dict | None, shape=TUNED, seed=1, name="adamw") -> Run:
    final = {"perplexity": score} if isinstance(score, float) else score
    found = run(name, seed, final, lr=lr)
    model = dict(zip(("width", "layers"), shape, strict=True))
    config = found.config | {"task": found.config["task"] | {"model": model}}
    return replace(found, config=config, record=found.record | {"run_id": f"{found.run_id}-{shape}-{lr}"})


def both_shapes() -> list[Run]:
    """1e-2 is best for the tuned shape, 1e-3 for the narrow one, where 1e-2 costs 4."""
    tuned, narrow = {1e-3: 30.0, 1e-2: 20.0, 1e-1: 25.0}, {1e-3: 41.0, 1e-2: 45.0, 1e-1: 50.0}
    runs = [made(lr, score, NARROW) for lr, score in narrow.items()]
    return runs + [made(lr, score + seed, seed=seed) for lr, score in tuned.items() for seed in (1, 2)]


def best(runs: list[Run]) -> list[dict]:
    return transfer.tables(TRANSFER, transfer.table(TRANSFER, runs), runs)[0].rows.to_dict("records")


def test_each_shape_has_its_best_learning_rate_and_the_price_of_the_tuned_one():
    tuned, narrow = best(both_shapes())
    assert (tuned["shape"], narrow["shape"]) == ("width 96, 3 layers", "width 48, 3 layers")
    assert [row["best lr"] for row in (tuned, narrow)] == ["1e-2.0", "1e-3.0"]
    assert [row["off by"] for row in (tuned, narrow)] == ["+0.0", "-1.0"]
    assert [row["at the edge"] for row in (tuned, narrow)] == ["no", "yes"]
    assert [row["perplexity"] for row in (tuned, narrow)] == ["21.50 ± 0.71", "41.00"]
    assert [row["lost"] for row in (tuned, narrow)] == ["0.00", "4.00"]


def test_a_learning_rate_with_a_diverged_run_is_not_the_best_and_its_price_is_said():
    runs = [one for one in both_shapes() if one.config["lr"] != 1e-2 or one.config["task"]["model"]["width"] == 96]
    tuned, narrow = best([*runs, made(1e-2, None, NARROW), made(1e-2, 1.0, NARROW, seed=2)])
    assert (tuned["lost"], narrow["best lr"], narrow["lost"]) == ("0.00", "1e-3.0", "diverged")
    (row,) = best([made(1e-2, None)])
    assert (row["best lr"], row["off by"], row["lost"]) == ("-", "-", "-")


def test_one_half_of_the_examples_chooses_and_the_other_is_shown():
    def halves(selection: float, report: float) -> dict:
        return {"perplexity": 0.0, "perplexity_selection": selection, "perplexity_report": report}

    (row,) = best([made(1e-3, halves(30.0, 35.0)), made(1e-2, halves(31.0, 25.0))])
    assert (row["best lr"], row["perplexity"]) == ("1e-3.0", "35.00")


def test_the_figure_has_a_panel_a_method_and_a_line_a_shape():
    runs = both_shapes()
    first, *others = transfer.figure(TRANSFER, transfer.table(TRANSFER, runs), runs, "data", "a footer").axes
    lines = {line.get_label(): list(line.get_ydata()) for line in first.lines if len(line.get_ydata())}
    assert list(lines.values()) == [[31.5, 21.5, 26.5], [41.0, 45.0, 50.0]]
    assert len(others) == 2 and first.get_xscale() == "log"


def test_its_files_are_written_and_the_page_shows_them_with_and_without_records(tmp_path):
    runs = both_shapes()
    write_artefact(TRANSFER, "mini", runs, tmp_path, expected=len(runs), seeds=2, command="a command")
    assert "| width 96, 3 layers |" in (tmp_path / "table.md").read_text().replace("  ", " ").replace("  ", " ")
    with_records = section(TRANSFER, "mini", runs, tmp_path, expected=len(runs), seeds=2)
    without = section(TRANSFER, "mini", [], tmp_path, expected=len(runs), seeds=2)
    assert (with_records.state, without.state) == (RECORDS, COMMITTED)
    assert len(with_records.panels) == 1 and without.image
