"""Folders of images: classes are numbered by the training set, and every kind of pixel becomes 8 bits."""

import importlib
import io
import struct
import tarfile
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scripts.cli.common import compose_config
from tasks.data.images import shards
from tasks.data.images.labelled import classes_of, of_file, read
from tasks.data.images.loader import in_colour
from tasks.data.images.shards import TarShards, decoded
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.imagenet.data import batches


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


# Files that PIL refuses or that are odd, in every place that images are read from

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_text(length, zipped):
    info = PngInfo()
    info.add_text("Comment", "x" * length, zip=zipped)
    return encoded(PIXELS, "PNG", pnginfo=info)


def huge(width, height):
    """Return a PNG whose header promises so many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


REFUSED = {
    "a text of 2 MB": (with_text(2_000_000, True), "an image that PIL refuses .*no metadata"),
    "200 megapixels": (huge(20_000, 10_000), "an image that PIL refuses .*fewer pixels"),
    "2^62 pixels": (huge(2**31 - 1, 2**31 - 1), "an image that PIL refuses .*fewer pixels"),
    "a cut JPEG": (encoded(PIXELS, "JPEG")[:-200], "not a complete image .*; download the file again"),
    "a cut WebP": (encoded(PIXELS, "WEBP")[:-200], "not a complete image .*; download the file again"),
    "nothing": (b"", "not a complete image"),
    "a web page": (b"<html>404</html>", "not a complete image"),
}
each_refused = pytest.mark.parametrize("kind", REFUSED)


@each_refused
def test_an_odd_file_in_a_folder_is_one_line_with_its_path(tmp_path, kind):
    content, words = REFUSED[kind]
    (tmp_path / "odd.JPEG").write_bytes(content)
    with pytest.raises(UserError, match=rf"^the bytes of {tmp_path}/odd\.JPEG are {words}") as refused:
        of_file(str(tmp_path / "odd.JPEG"))
    assert "\n" not in str(refused.value)


@each_refused
def test_an_odd_file_in_a_tar_shard_is_one_line_with_the_shard_and_the_place(tmp_path, kind):
    content, words = REFUSED[kind]
    with tarfile.open(tmp_path / "imagenet-train-0000.tar", "w") as shard:
        for name, part in (("a.jpg", content), ("a.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(part)
            shard.addfile(member, io.BytesIO(part))
    images = TarShards([tmp_path / "imagenet-train-0000.tar"], tmp_path / "index")
    with pytest.raises(UserError, match=rf"^the [\d,]+ bytes from 512 on of .*-0000\.tar are {words}"):
        images[0]


@each_refused
def test_an_odd_file_in_parquet_is_one_line_with_the_shard_and_the_row(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    content, words = REFUSED[kind]
    folder = tmp_path / "imagenet-parquet" / "data"
    folder.mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    whole = {"bytes": encoded(PIXELS, "JPEG"), "path": "a.JPEG"}
    for number, image in enumerate((whole, {"bytes": content, "path": "odd.JPEG"})):
        rows = {"image": [whole, image], "label": [0, 1]}
        shard = datasets.Dataset.from_dict(rows, features=features)
        shard.to_parquet(folder / f"train-0000{number}-of-00002.parquet")
    read.cache_clear()
    images = read("ImageNetParquet", tmp_path, "train")
    assert [images[index][1] for index in range(3)] == [0, 1, 0]
    with pytest.raises(UserError, match=rf"^the bytes of row 1 of .*/train-00001-of-00002\.parquet are {words}"):
        images[3]


def test_parquet_that_is_not_imagenet_s_is_one_line(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "imagenet-parquet" / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    read.cache_clear()
    for content, words in (({"jpg": [b""], "label": [0]}, "no column image"), ({"image": [b""]}, "no column label")):
        datasets.Dataset.from_dict(content).to_parquet(path)
        with pytest.raises(UserError, match=words):
            read("ImageNetParquet", tmp_path, "train")
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match=r"^ImageNetParquet cannot be loaded \("):
        read("ImageNetParquet", tmp_path, "train")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert in_colour(shards.decoded(content, "a photo")).getpixel((1, 1)) == (255, 0, 0)


def test_inks_and_metadata_that_pil_warns_of_are_read_quietly():
    odd_exif = encoded(PIXELS, "JPEG").replace(b"JFIF\x00", b"Exif\x00", 1)
    transparent = encoded(PIXELS.quantize(), "PNG", transparency=bytes([0, 128]))
    with warnings.catch_warnings(record=True) as warned:
        importlib.reload(shards)  # pytest has reset the filter that it sets
        for content in (encoded(PIXELS.convert("CMYK"), "JPEG"), odd_exif, transparent):
            assert in_colour(shards.decoded(content, "a photo")).mode == "RGB"
    assert not [str(one.message) for one in warned]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_one_line(root, workers):
    read.cache_clear()
    path = root / "imagenet" / "train" / "ant" / "a.png"
    images = read("ImageNet", root, "train")
    path.unlink()
    keys = ["task=imagenet", "scale=mini", "task.batch_size=2", "num_steps=8", f"loader_workers={workers}"]
    batch_at = batches(images, read_config(compose_config([*keys, "regularizer=adamw"])), torch.device("cpu"))
    with pytest.raises(UserError, match=rf"^{path} cannot be read \(No such file or directory\)"):
        for step in range(8):
            batch_at(step)
