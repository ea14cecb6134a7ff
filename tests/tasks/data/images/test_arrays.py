"""Small images in memory: augmentation, batches, subsets and sizes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import write_fashion_mnist

from tasks.data.images.arrays import Images, batches, crop_and_flip, load, normalizer, subset
from tasks.engine.errors import UserError
from tasks.engine.seeding import generator_for

CPU = torch.device("cpu")


def image_config(**changes) -> SimpleNamespace:
    return SimpleNamespace(
        **{"name": "FashionMNIST", "downsample": 1, "mean": [0.3], "std": [0.4], "crop_padding": 2} | changes
    )


def numbered(count: int) -> Images:
    """Images of one colour, which is their label."""
    labels = torch.arange(count)
    return Images(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous(), labels)


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=generator_for(0, "pixels")).to(torch.uint8)


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
