"""ImageNet in webdataset's tar shards: images, index and damaged shards."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call_forked, is_one_line
from PIL import Image

from scripts.cli.common import compose_config
from scripts.prepare_data import prepare_task
from tasks.data.images import shards
from tasks.data.images.labelled import ParquetShards, load, read
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.imagenet.data import batches
from tasks.imagenet.task import build

KEYS = ("c", "a", "b")

SHARDS = (
    *("task=imagenet", "scale=mini", "regularizer=adamw"),
    *("task.data.name=ImageNetWebDataset", "task.data.train_size=null"),
)


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def sample(key: str, number: int, label: int) -> dict[str, bytes]:
    """Return a sample as in timm's shards. The reader does not need its .json."""
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "png")
    return {f"{key}.json": b"{}", f"{key}.png": file.getvalue(), f"{key}.cls": f"{label}\n".encode()}


@pytest.fixture
def root(tmp_path):
    """Write two shards of three training images and one of three validation images.

    Keys are unordered. The image is 10 x shard + place, and the class is 0, 1 or 2."""
    folder = tmp_path / "imagenet-wds"
    for number, name in enumerate(("imagenet1k-train-0000", "imagenet1k-train-0001", "imagenet1k-validation-00")):
        members: dict[str, bytes] = {}
        for key in KEYS:
            members |= sample(f"./{key}", 10 * number + sorted(KEYS).index(key), sorted(KEYS).index(key))
        write_shard(folder / f"{name}.tar", members)
    return tmp_path


def test_images_come_by_index_in_the_order_of_shards_and_keys(root):
    images = read("ImageNetWebDataset", root, "train")
    assert len(images) == 6 and len(read("ImageNetWebDataset", root, "val")) == 3
    for index in (5, 0, 3, 1, 4, 2):
        image, label = images[index]
        number = 10 * (index // 3) + index % 3
        assert label == index % 3 and np.array_equal(np.asarray(image.convert("RGB")), pixels(number))
    with pytest.raises(IndexError):
        images[6]


def test_a_batch_of_shards_is_a_function_of_its_step_with_and_without_workers(root):
    made = []
    for workers in (0, 1):
        keys = ["task.batch_size=4", "num_steps=4", f"loader_workers={workers}", f"data_dir={root}"]
        cfg = read_config(compose_config([*SHARDS, *keys]))
        made.append(batches(load(cfg.task.data, root, "train"), cfg, torch.device("cpu")))
    for step in (2, 3, 0):
        first, second = (batch_at(step)[0:4] for batch_at in made)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    few = compose_config(
        [*SHARDS, "task.data.val_size=null", "task.batch_size=4", "task.model.num_classes=2", f"data_dir={root}"]
    )
    with pytest.raises(UserError, match=r"has 3 classes, more than task\.model\.num_classes=2"):
        build(read_config(few), torch.device("cpu"))


def test_shards_are_looked_through_once_and_again_when_one_has_changed(root, monkeypatch):
    folder = root / "imagenet-wds"
    files, looked = sorted(folder.glob("*train*")), []
    look = shards._of_shard
    monkeypatch.setattr(shards, "_of_shard", lambda file: looked.append(file.name) or look(file))
    first = shards.TarShards(files, folder / "index")
    again = shards.TarShards(files, folder / "index")
    assert looked == [file.name for file in files] and [first[i][1] for i in range(6)] == [
        again[i][1] for i in range(6)
    ]
    (kept,) = (folder / "index").iterdir()
    assert kept.suffix == ".npy"
    write_shard(files[1], sample("only", 7, 9))
    changed = shards.TarShards(files, folder / "index")
    assert len(looked) == 4 and len(changed) == 4 and changed[3][1] == 9 and changed.classes == 10


def test_a_shard_that_is_damaged_or_none_is_one_line(root, tmp_path):
    whole = (root / "imagenet-wds" / "imagenet1k-train-0000.tar").read_bytes()
    spoiled = bytearray(whole)
    spoiled[whole.index(b"a.png") - 2 + 148 : whole.index(b"a.png") + 150] = b"XXXX"  # its header's checksum
    image = dict(sample("a", 1, 1))
    wrong = {
        "cut in an image": (whole[:3000], "is damaged: .*download this shard again"),
        "cut between members": (whole[: whole.index(b"./a.json")], "is damaged: it ends at byte"),
        "header": (bytes(spoiled), "is damaged: it ends at byte"),
        "text": (b"404: not found\n" * 100, "is damaged: "),
        "nothing": (b"", "is damaged: "),
        "no class": ({"a.png": image["a.png"]}, r"'a' must have one image \(jpg, jpeg, png\) and a \.cls"),
        "no image": ({"a.cls": b"1"}, "'a' must have one image"),
        "a name": (image | {"a.cls": b"tench"}, "'a' must have one image"),
        "no members": ({}, "holds no images"),
    }
    for name, (content, message) in wrong.items():
        path = tmp_path / f"{name}.tar"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write_shard(path, content)
        with pytest.raises(UserError, match=message) as error:
            shards.TarShards([path], tmp_path / "index")
        assert "\n" not in str(error.value) and name in str(error.value)
    none = shards.TarShards([write_shard(tmp_path / "bytes.tar", image | {"a.png": b"no pixels"})], tmp_path / "index")
    with pytest.raises(
        UserError,
        match=r"the 9 bytes from [\d,]+ on of .*bytes\.tar are not a complete image \(cannot identify image file\)",
    ):
        none[0]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the index of the shards cannot be written into .*file: File exists"):
        shards.TarShards(sorted((root / "imagenet-wds").glob("*train*")), tmp_path / "file")


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (None, 0, r"the bytes of row 1 of .*train-0\.parquet are not a complete image"),
        (
            {"bytes": None, "path": "n01440764_18.JPEG"},
            0,
            r"the bytes of row 1 of .*train-0\.parquet are not a complete",
        ),
        ({"bytes": b"", "path": ""}, "tench", "has the class fish; take shards with labels"),
    ],
)
def test_a_row_of_parquet_without_an_image_or_a_number_is_one_line(tmp_path, image, label, words):
    pytest.importorskip("datasets")
    from pyarrow import Table, parquet

    first = {"image": {"bytes": b"", "path": ""}, "label": 0 if label == 0 else "fish"}
    table = Table.from_pylist([first, {"image": image, "label": label}])
    parquet.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(UserError, match=words):
        ParquetShards([tmp_path / "train-0.parquet"], tmp_path)[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_off_is_one_line_that_says_where_it_lies(root, workers):
    whole = sample("a", 1, 1)
    write_shard(root / "imagenet-wds" / "imagenet1k-train-0000.tar", whole | {"a.png": whole["a.png"][:600]})
    keys = ["task.batch_size=4", "num_steps=1", f"loader_workers={workers}", f"data_dir={root}"]
    cfg = read_config(compose_config([*SHARDS, *keys]))
    batch_at = batches(load(cfg.task.data, root, "train"), cfg, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"^the 600 bytes from [\d,]+ on of .*-0000\.tar are not a complete image \(.*truncated.*\)"
    ) as error:
        batch_at(0)
    assert "\n" not in str(error.value)


def test_missing_shards_and_too_few_are_one_line(root, tmp_path):
    done = call_forked("prepare_data.py", "imagenet", "ImageNetWebDataset", f"data_dir={tmp_path / 'none'}")
    assert done.returncode == 2
    is_one_line(done, "https://huggingface.co/datasets/timm/imagenet-1k-wds, then: hf download timm/imagenet-1k-wds")
    with pytest.raises(UserError, match="has 6 images of 3 classes, not 1,281,167 of 1,000"):
        prepare_task("imagenet", ["ImageNetWebDataset"], root)
