"""Each step has the right learning rate, batch and random numbers. Two tasks have the right data and model."""

import io
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import write_fashion_mnist
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scripts.cli.common import compose_config
from tasks.cifar100.data import Images, batches, crop_and_flip, load, normalizer, subset
from tasks.engine.batching import epoch_order
from tasks.engine.checks import check
from tasks.engine.errors import UserError
from tasks.engine.schedule import DECAYS, lr_factor
from tasks.engine.seeding import derive, generator_for, random_state, restore_random_state, seed_everything
from tasks.grokking.data import split
from tasks.grokking.model import Decoder

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**31)
PURPOSES = st.tuples(SEEDS, st.sampled_from(["epoch", "augment", "subset", "split"]), st.integers(0, 10**6))


def schedule(
    warmup_steps: int, decay: str = "cosine", final_factor: float = 0.0, power: float = 1.0
) -> SimpleNamespace:
    return SimpleNamespace(warmup_steps=warmup_steps, decay=decay, final_factor=final_factor, power=power)


def image_config(**changes) -> SimpleNamespace:
    return SimpleNamespace(
        **{"name": "FashionMNIST", "downsample": 1, "mean": [0.3], "std": [0.4], "crop_padding": 2} | changes
    )


def numbered(count: int) -> Images:
    """Return images of one colour each, equal to their label."""
    labels = torch.arange(count)
    return Images(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous(), labels)


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=generator_for(0, "pixels")).to(torch.uint8)


def draws() -> tuple[list[float], list[float], list[float]]:
    """Draw from the global generators of Python, NumPy and torch. Normal draws keep half of a pair."""
    return (
        [random.gauss(0, 1) for _ in range(3)] + [random.random()],
        [*np.random.randn(3).tolist(), np.random.rand()],
        torch.randn(5).tolist() + torch.rand(3).tolist(),
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("warmup_steps", [1, 7, 500])
def test_the_warm_up_starts_at_exactly_0_is_linear_and_ends_at_1(decay, warmup_steps):
    factors = [lr_factor(schedule(warmup_steps, decay, 0.1, 0.9), step, 20_000) for step in range(warmup_steps + 1)]
    assert factors[0] == 0.0 and factors[-1] == 1.0
    assert factors == pytest.approx([step / warmup_steps for step in range(warmup_steps + 1)], rel=1e-15)


@pytest.mark.parametrize("decay", DECAYS)
def test_without_a_warm_up_the_first_step_has_the_whole_learning_rate(decay):
    assert lr_factor(schedule(0, decay, 0.1, 0.9), 0, 100) == 1.0


@pytest.mark.parametrize("step", [0, 1, 250, 499, 500, 501, 5_000, 10_250, 19_999, 20_000])
def test_cifar100_has_the_paper_s_schedule(step):
    cfg = compose_config(["task=cifar100", "scale=paper"])
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
    check(compose_config(["task=grokking"]))
    with pytest.raises(UserError, match=f"task.schedule.{wrong.split('=')[0]}="):
        check(compose_config(["task=grokking", f"task.schedule.{wrong}"]))


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


@pytest.mark.parametrize("channels, height, width, padding", [(1, 8, 6, 2), (3, 7, 9, 4), (2, 5, 5, 0)])
def test_crop_and_flip_equals_a_plain_loop_over_the_images(channels, height, width, padding):
    images = random_pixels(40, channels, height, width)
    augmented = crop_and_flip(images, padding, generator_for(2, "augment"))
    generator = generator_for(2, "augment")
    top, left = torch.randint(0, 2 * padding + 1, (2, 40, 1), generator=generator)
    flips = torch.rand(40, 1, generator=generator) < 0.5
    assert augmented.shape == images.shape and augmented.dtype == images.dtype and 0 < flips.sum() < 40
    for image, row, column, flip, result in zip(
        images.numpy(), top.flatten(), left.flatten(), flips, augmented.numpy(), strict=True
    ):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        cropped = padded[:, row : row + height, column : column + width]
        np.testing.assert_array_equal(result, cropped[:, :, ::-1] if flip else cropped)


def test_image_batches_are_a_function_of_seed_and_step_in_any_order_of_calls():
    data = Images(random_pixels(50, 1, 8, 8), torch.arange(50))
    first, second, other = (batches(data, image_config(), 8, seed, CPU) for seed in (5, 5, 6))
    in_order = {step: first(step) for step in range(20)}
    for step in (19, 3, 3, 0, 12, 7, 19):
        assert all(torch.equal(part, expected) for part, expected in zip(second(step), in_order[step], strict=True))
    assert not torch.equal(other(0)[1], in_order[0][1])


def test_the_same_image_is_augmented_anew_in_every_step_and_for_every_seed():
    data = Images(random_pixels(1, 1, 8, 8).expand(16, -1, -1, -1), torch.zeros(16))
    runs = [batches(data, image_config(), 16, seed, CPU) for seed in (1, 2)]
    assert len({batch_at(step)[0].numpy().tobytes() for batch_at in runs for step in range(3)}) == 6


def test_an_epoch_of_image_batches_has_every_image_once_with_its_own_label():
    cfg = image_config()
    batch_at = batches(numbered(50), cfg, 8, seed=1, device=CPU)
    images, labels = (torch.cat(parts) for parts in zip(*(batch_at(step) for step in range(7)), strict=True))
    assert sorted(labels.tolist()) == list(range(50)) and images.dtype == torch.float32
    assert torch.equal(images, normalizer(cfg, CPU)(labels.view(-1, 1, 1, 1).expand(-1, 1, 6, 6)))


def test_the_normalizer_takes_each_channel_s_mean_and_std_of_pixels_in_0_to_1():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 2, 2)
    expected = torch.tensor([[-0.5, -2.0], [0.0, -1.2], [2.0, 2.0]])[:, :, None, None].expand(3, 2, 2, 2)
    torch.testing.assert_close(normalizer(image_config(mean=[0.2, 0.5], std=[0.4, 0.25]), CPU)(pixels), expected)


def test_a_subset_is_the_same_for_every_call_has_no_repetitions_and_keeps_labels():
    data = numbered(200)
    chosen, again, other = (subset(data, 120, seed) for seed in (0, 0, 1))
    assert torch.equal(chosen.labels, again.labels) and torch.equal(chosen.images, again.images)
    assert len(set(chosen.labels.tolist())) == len(chosen.labels) == 120
    assert torch.equal(chosen.images[:, 0, 0, 0].long(), chosen.labels)
    assert set(chosen.labels.tolist()) != set(other.labels.tolist())
    assert subset(data, None, seed=0) is data
    for size in (0, 201):
        with pytest.raises(UserError, match=f"train_size={size} must lie in 1..200"):
            subset(data, size, seed=0)


def test_loading_downsamples_by_the_average_of_blocks_and_repeats_grey_to_all_channels(tmp_path):
    write_fashion_mnist(tmp_path, train=30, test=20)
    for train, count in ((True, 30), (False, 20)):
        full = load(image_config(), tmp_path, train)
        half = load(image_config(downsample=2, mean=[0.1, 0.2, 0.3]), tmp_path, train)
        assert full.images.shape == (count, 1, 28, 28) and half.images.shape == (count, 3, 14, 14)
        assert torch.equal(full.labels, torch.arange(count) % 10) and torch.equal(half.labels, full.labels)
        blocks = full.images[:, 0].numpy().astype(np.int64).reshape(count, 14, 2, 14, 2).sum(axis=(2, 4))
        for channel in range(3):
            np.testing.assert_array_equal(half.images[:, channel].numpy(), np.rint(blocks / 4).astype(np.uint8))


def test_grokking_splits_all_pairs_into_3830_for_training_and_the_rest():
    (train, train_sums), (validation, validation_sums) = split(113, 0.3, seed=0)
    assert train.shape == (3_830, 3) and len(train) + len(validation) == 113**2
    both, sums = torch.cat([train, validation]), torch.cat([train_sums, validation_sums])
    assert {(a, b) for a, b, _ in both.tolist()} == {(a, b) for a in range(113) for b in range(113)}
    assert sums.tolist() == [(a + b) % 113 for a, b, _ in both.tolist()] and (both[:, 2] == 113).all()
    assert torch.equal(split(113, 0.3, seed=0)[0][0], train) and not torch.equal(split(113, 0.3, seed=1)[0][0], train)


def test_the_decoder_equals_a_full_causal_one_on_the_last_position_in_logits_and_gradients():
    torch.manual_seed(0)
    model = Decoder(113)
    tokens = split(113, 0.3, seed=0)[0][0][:64]
    x = model.token_embedding(tokens) + model.pos_embedding
    causal, mixed = torch.full((3, 3), -math.inf).triu(1), []
    for head in (slice(32 * i, 32 * i + 32) for i in range(4)):
        q, k, v = (projection(x)[:, :, head] for projection in (model.query, model.key, model.value))
        mixed.append((q @ k.transpose(1, 2) / math.sqrt(32) + causal).softmax(-1) @ v)
    x = x + model.output(torch.cat(mixed, dim=2))
    x = x + model.mlp_out(model.mlp_in(x).relu())
    full = model.unembedding(x)
    torch.testing.assert_close(model(tokens), full[:, -1], rtol=0, atol=1e-5)
    parameters = list(model.parameters())
    sums = tokens[:, :2].sum(1) % 113
    expected = torch.autograd.grad(F.cross_entropy(full[:, -1], sums), parameters)
    torch.testing.assert_close(
        torch.autograd.grad(F.cross_entropy(model(tokens), sums), parameters), expected, rtol=0, atol=1e-5
    )
