"""What each step gets: its learning rate, the indices of its batch and its random numbers."""

import io
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scripts.cli.common import compose_config
from tasks.engine.batching import epoch_order
from tasks.engine.config import Schedule, read_config
from tasks.engine.errors import UserError
from tasks.engine.schedule import lr_factor
from tasks.engine.seeding import derive, generator_for, random_state, restore_random_state, seed_everything

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**31)
PURPOSES = st.tuples(SEEDS, st.sampled_from(["epoch", "augment", "subset", "split"]), st.integers(0, 10**6))


def schedule(warmup_steps: int, decay: str = "cosine", final_factor: float = 0.0, power: float = 1.0) -> Schedule:
    return Schedule(warmup_steps=warmup_steps, decay=decay, final_factor=final_factor, power=power)


def draws() -> tuple[list[float], list[float], list[float]]:
    """Draw from the global generators of Python, NumPy and torch. Normal draws keep half of a pair."""
    return (
        [random.gauss(0, 1) for _ in range(3)] + [random.random()],
        [*np.random.randn(3).tolist(), np.random.rand()],
        torch.randn(5).tolist() + torch.rand(3).tolist(),
    )


@pytest.mark.parametrize("decay", ["cosine", "polynomial", "constant"])
@pytest.mark.parametrize("warmup_steps", [1, 7, 500])
def test_the_warm_up_starts_at_exactly_0_is_linear_and_ends_at_1(decay, warmup_steps):
    factors = [lr_factor(schedule(warmup_steps, decay, 0.1, 0.9), step, 20_000) for step in range(warmup_steps + 1)]
    assert factors[0] == 0.0 and factors[-1] == 1.0
    assert factors == pytest.approx([step / warmup_steps for step in range(warmup_steps + 1)], rel=1e-15)


@pytest.mark.parametrize("decay", ["cosine", "polynomial", "constant"])
def test_without_a_warm_up_the_first_step_has_the_whole_learning_rate(decay):
    assert lr_factor(schedule(0, decay, 0.1, 0.9), 0, 100) == 1.0


@pytest.mark.parametrize("step", [0, 1, 250, 499, 500, 501, 5_000, 10_250, 19_999, 20_000])
def test_cifar100_has_the_paper_s_schedule(step):
    cfg = read_config(compose_config(["task=cifar100", "scale=paper"]))
    expected = step / 500 if step < 500 else 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 500) / (20_000 - 500))) / 2
    assert lr_factor(cfg.task.schedule, step, cfg.num_steps) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("step, factor", [(0, 0), (2_500, 0.5), (5_000, 1), (102_500, 0.55), (200_000, 0.1)])
def test_a_cosine_of_5_000_and_200_000_steps_as_for_gpt2_is_half_way_down_in_the_middle(step, factor):
    assert lr_factor(schedule(5_000, "cosine", 0.1), step, 200_000) == pytest.approx(factor, abs=1e-12)


def test_the_polynomial_of_power_0_9_is_nnunet_s():
    for step in (0, 1, 100, 12_500, 24_999, 25_000):
        nnunet = pytest.approx((1 - step / 25_000) ** 0.9, abs=1e-15)
        assert lr_factor(schedule(0, "polynomial", 0.0, 0.9), step, 25_000) == nnunet
        assert lr_factor(schedule(1_000, "polynomial", 0.0, 0.9), step + 1_000, 26_000) == nnunet


@pytest.mark.parametrize("decay, last", [("cosine", 0.2), ("polynomial", 0.2), ("constant", 1.0)])
def test_the_factor_ends_at_the_final_one_and_never_rises_on_its_way(decay, last):
    factors = [lr_factor(schedule(10, decay, 0.2, 0.9), step, 300) for step in range(10, 301)]
    assert factors[-1] == pytest.approx(last, abs=1e-15)
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(
    "wrong",
    [
        "decay=linear",
        "warmup_steps=-1",
        "warmup_steps=2.5",
        "warmup_steps=null",
        "final_factor=1.5",
        "final_factor=-0.1",
        "power=-1",
    ],
)
def test_a_schedule_out_of_its_range_is_refused_with_the_name_of_the_key(wrong):
    read_config(compose_config(["task=grokking"]))
    with pytest.raises(UserError, match=f"task.schedule.{wrong.split('=')[0]}="):
        read_config(compose_config(["task=grokking", f"task.schedule.{wrong}"]))


@given(st.integers(1, 40), st.integers(1, 50), SEEDS, st.integers(0, 3))
@example(10, 5, 0, 0)  # no partial batch
@example(3, 8, 0, 1)  # only a partial batch
@settings(max_examples=50, deadline=None)
def test_every_epoch_is_a_permutation_and_only_its_last_batch_is_partial(count, batch_size, seed, epoch):
    steps = -(-count // batch_size)
    indices = epoch_order(count, batch_size, seed)
    parts = [indices(epoch * steps + number) for number in range(steps)]
    assert [len(part) for part in parts] == [batch_size] * (steps - 1) + [count - batch_size * (steps - 1)]
    assert sorted(torch.cat(parts).tolist()) == list(range(count))


@given(st.permutations(range(30)))
@settings(max_examples=20, deadline=None)
def test_a_batch_is_a_function_of_seed_and_step_in_any_order_of_calls(order):
    in_order = [epoch_order(50, 8, seed=3)(step).tolist() for step in range(30)]
    indices = epoch_order(50, 8, seed=3)
    assert {step: indices(step).tolist() for step in order} == dict(enumerate(in_order))


def test_epochs_and_seeds_have_different_orders():
    orders = [epoch_order(100, 100, seed)(epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 9


@given(st.lists(PURPOSES, min_size=2, max_size=10, unique=True))
@example([(1, "epoch", 23), (1, "epoch", 2, 3), (1, 23), (12, 3), (1, "augment", 23)])
@settings(max_examples=100, deadline=None)
def test_distinct_seeds_and_purposes_have_distinct_streams(purposes):
    assert all(0 <= derive(*purpose) < 2**63 for purpose in purposes)
    first, again = (
        [torch.rand(4, generator=generator_for(*purpose)).numpy().tobytes() for purpose in purposes] for _ in range(2)
    )
    assert len(set(first)) == len(purposes) and first == again


@given(SEEDS, st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_restored_generators_go_on_where_they_were_after_a_weights_only_load(seed, drawn_before):
    seed_everything(seed)
    for _ in range(drawn_before):
        draws()
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draws()
    assert draws() != expected
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert draws() == expected
