"""Folders of images: classes are numbered by the training set, and every kind of pixel becomes 8 bits."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.data.images.labelled import classes_of, of_file, read
from tasks.data.images.shards import decoded
from tasks.engine.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Return a data folder whose training set has three classes of one image each."""
    read.cache_clear()
    for name in ("ant", "bee", "cat"):
        save(tmp_path, "train", name)
    return tmp_path


def save(root, split, name):
    folder = root / "imagenet" / split / name
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "a.png")


def test_a_class_keeps_its_number_where_the_first_class_has_no_validation_images(root, capsys):
    for name in ("bee", "cat"):
        save(root, "val", name)
    images = read("ImageNet", root, "val")
    assert [label for _, label in images] == [1, 2]
    assert classes_of(images) == 3
    assert images.classes == ["ant", "bee", "cat"]
    assert capsys.readouterr().err.count("lacks the class ant of") == 1


def test_as_many_classes_of_other_names_are_refused_by_name(root):
    for name in ("bee", "cat", "dog"):
        save(root, "val", name)
    with pytest.raises(UserError, match=r"val has the class dog, which .*train lacks"):
        read("ImageNet", root, "val")


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_grey_values_of_16_bits_are_scaled(tmp_path, ending):
    path = tmp_path / f"grey.{ending}"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(path)
    image = of_file(str(path))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize(("most", "values"), [(65535, [0, 257, 32896, 65535]), (4095, [0, 16, 2056, 4095])])
def test_a_pgm_of_16_bits_is_scaled_by_its_own_range(tmp_path, most, values):
    """PIL opens it as mode I, as it opens images of 32 bits."""
    path = tmp_path / "grey.pgm"
    path.write_bytes(f"P5\n4 1\n{most}\n".encode() + np.array(values, dtype=">u2").tobytes())
    image = of_file(str(path))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused_with_the_file_s_name(kind):
    file = io.BytesIO()
    Image.fromarray(np.ones((2, 2), dtype=kind)).save(file, "TIFF")
    with pytest.raises(UserError, match=r"photo\.tiff are an image of 32 bits a pixel"):
        decoded(file.getvalue(), "photo.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_kinds_of_pixels_are_left_as_they_are(mode):
    file = io.BytesIO()
    Image.new(mode, (2, 2)).save(file, "TIFF" if mode == "CMYK" else "PNG")
    assert decoded(file.getvalue(), "a photo").mode == mode
