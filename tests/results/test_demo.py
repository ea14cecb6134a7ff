"""The demo's figure and sentences, from made-up runs. `.ci/run` runs the demo itself."""

from commands import call_forked, is_one_line

from results.demo import MATRICES, demo_figure, findings
from results.files import draw
from results.runs import Run


def made(accuracies: list[float], sizes: list[float], bounded: bool) -> Run:
    """Return a run that is evaluated every 80 steps."""
    steps = range(80, 80 * len(accuracies) + 1, 80)
    metrics = [{"step": step, "validation_accuracy": value} for step, value in zip(steps, accuracies, strict=True)]
    bound = {"kappa": [0.5, 0.5], "lambda": [0.1, 0.1]} if bounded else {"kappa": [None, None], "lambda": [None, None]}
    rows = [{"step": step, "R": [size, 2 * size]} | bound for step, size in zip(steps, sizes, strict=True)]
    return Run({"num_steps": 240}, {"run_id": "a"}, metrics, [{"matrices": list(MATRICES)}, *rows])


RUNS = {"AdamW": made([1.0, 40.0, 90.0], [1.0, 3.0, 2.0], False), "CPR": made([1.0, 96.0, 99.0], [0.5, 0.5, 0.4], True)}


def test_the_sentences_say_when_each_run_generalizes_and_how_its_weights_grew():
    first, second, _ = findings(RUNS, 8)
    assert first == "95 % validation accuracy is reached with AdamW: in no epoch of 30; CPR: at epoch 20 of 30."
    assert (
        second
        == "The size R of query.weight grows by at most 3.0 times with AdamW, 1.0 times with CPR; its bound is the dashed line."
    )


def test_the_figure_is_one_picture(tmp_path):
    (path,) = draw(demo_figure(RUNS, 8), tmp_path, "demo", kinds=["png"])
    assert path.name == "demo.png" and path.stat().st_size > 20_000


def test_another_key_is_refused():
    done = call_forked("demo.py", "lr=1")
    assert done.returncode == 2
    is_one_line(done, "runs_dir=", "scripts/reproduce.py grokking")
