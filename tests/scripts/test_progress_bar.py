"""One bar covers the runs of several sweeps, by their expected time."""

from types import SimpleNamespace

import pytest

from scripts.sweep import progress
from scripts.sweep.progress import Progress


def config(name, steps):
    return SimpleNamespace(name=name, num_steps=steps)


@pytest.fixture
def bar(monkeypatch):
    """Return a bar over two short runs of 10 s and one long run of 100 s."""
    monkeypatch.setattr(progress.records, "run_id", lambda cfg: cfg.name)
    runs = [config("a", 50), config("b", 50), config("c", 10)]
    costs = {"a": 10.0, "b": 10.0, "c": 100.0, "new": 30.0}
    with Progress("a title", runs, lambda cfg: costs[cfg.name], shown=False) as made:
        yield made, runs


def test_steps_count_by_the_time_that_they_take(bar):
    made, (a, b, c) = bar
    assert made.total == 120
    made.begin([a, b])
    made.update(50, 1, 2)
    assert made.seconds == pytest.approx(10)
    made.update(100, 2, 2)
    made.begin([c])
    made.update(5, 0, 1)
    assert made.seconds == pytest.approx(70)


def test_after_a_lost_worker_the_runs_that_are_left_begin_again(bar):
    made, (a, b, c) = bar
    made.begin([a, b])
    made.update(60, 1, 2)
    made.begin([b])
    made.update(0, 1, 2)
    assert made.seconds == pytest.approx(10) and made.total == 120
    made.begin([c])
    made.update(10, 1, 1)
    assert made.seconds == pytest.approx(120)


def test_runs_that_nobody_expected_make_it_longer(bar):
    made, (a, b, c) = bar
    made.begin([a, b, c])
    made.update(110, 3, 3)
    made.begin([config("new", 10)])
    made.update(5, 0, 1)
    assert (made.seconds, made.total) == (pytest.approx(135), 150)
