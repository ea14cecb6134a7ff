"""The task cifar100c: corrupted images, score, making and unpacking a set, mistakes, and a killed run."""

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
from commands import call, is_one_line, records, start, wait_until, write_fashion_mnist

from scripts.cli.common import compose_config
from scripts.prepare_data import prepare_task
from tasks.cifar100.data import at_size, load, normalizer
from tasks.cifar100c import corrupt, prepare
from tasks.cifar100c.data import CORRUPTIONS, SEVERITIES
from tasks.cifar100c.data import load as load_corrupted
from tasks.engine.errors import UserError
from tasks.engine.files import write_atomically
from tasks.engine.records import identity
from tasks.engine.run import build_workload

COUNT = 40
TINY = ("task=cifar100c", "scale=mini", "quiet=true", "task.data.train_size=100", "task.corruptions.images=30")


def darker(image, severity, corruption_name, seed=None):
    """Replace the library: darken the images, and add noise from the generator of the named corruption."""
    draw = np.random if seed is None else np.random.default_rng(seed)
    noise = draw.normal(scale=3, size=(*image.shape, 3))
    return np.clip(image[..., None] * (1 - 0.15 * severity) + noise, 0, 255).astype(np.uint8)


def make(root, count=COUNT, function=darker):
    """Make FashionMNIST-C in `root` from its first test images with `function`. Return its folder."""
    clean = load(compose_config(["task=cifar100", "task.data.downsample=1"]).task.data, root, train=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corrupt, "_library", lambda: (function, {"a library": "1.0"}))
        corrupt.make(root, clean.images[:count, 0].numpy(), clean.labels[:count].numpy(), print)
    return root / corrupt.NAME


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_fashion_mnist(tmp_path_factory.mktemp("data"))
    make(folder)
    return folder


@pytest.fixture
def copied(root, tmp_path):
    return shutil.copytree(root, tmp_path / "data")


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_models_are_trained_as_those_of_figure_2(scale):
    of_e5, of_2 = (identity(compose_config([f"task={task}", f"scale={scale}"])) for task in ("cifar100c", "cifar100"))
    assert of_e5["task"].pop("name") != of_2["task"].pop("name")
    assert of_e5["task"].pop("corruptions")["names"] == list(CORRUPTIONS)
    assert of_e5 == of_2


def test_a_file_has_the_test_images_in_order_at_severities_1_to_5(root):
    labels = np.load(root / corrupt.NAME / "labels.npy")
    clean = load(compose_config(["task=cifar100", "task.data.downsample=1"]).task.data, root, train=False)
    assert np.array_equal(labels, np.tile(clean.labels[:COUNT], 5))
    for name in CORRUPTIONS:
        images = np.load(root / corrupt.NAME / f"{name}.npy")
        assert images.dtype == np.uint8 and images.shape == (5 * COUNT, 28, 28, 1)
        for severity in SEVERITIES:
            expected = clean.images[:COUNT, 0].numpy() * (1 - 0.15 * severity)
            assert np.abs(images[(severity - 1) * COUNT :][:COUNT, :, :, 0] - expected).max() < 20


def test_the_score_is_a_plain_loop_s(root):
    cfg = compose_config(
        [*TINY, f"data_dir={root}", "task.corruptions.names=[fog,snow]", "task.corruptions.severities=[2,5]"]
    )
    torch.manual_seed(0)
    workload = build_workload(cfg, torch.device("cpu"))
    model = workload.model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(20):  # an untrained model gives all images one class
        workload.loss(model.train(), workload.batch_at(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    found = workload.at_end(model)
    labels, normalize = np.load(root / corrupt.NAME / "labels.npy"), normalizer(cfg.task.data, torch.device("cpu"))
    right = {}
    for name in ("fog", "snow"):
        images = np.load(root / corrupt.NAME / f"{name}.npy")
        for severity in (2, 5):
            right[name, severity] = 0
            for index in range((severity - 1) * COUNT, (severity - 1) * COUNT + 30):
                pixels = at_size(torch.from_numpy(images[index])[None].permute(0, 3, 1, 2), cfg.task.data)
                right[name, severity] += int(model(normalize(pixels)).argmax() == labels[index])
    means = {"": right, **{f"_{key}": {cell: n for cell, n in right.items() if key in cell} for key in ("fog", "snow")}}
    means |= {f"_severity_{key}": {cell: n for cell, n in right.items() if key in cell} for key in (2, 5)}
    halves = [found.pop(f"corrupted_accuracy_{half}") for half in ("selection", "report")]
    assert sum(halves) / 2 == pytest.approx(found["corrupted_accuracy"])  # 15 images each
    assert found == {
        f"corrupted_accuracy{key}": pytest.approx(100 * sum(n.values()) / len(n) / 30) for key, n in means.items()
    }
    assert len(set(right.values())) > 1


def test_a_set_is_the_same_however_often_and_of_how_many_images_it_is_made(root, copied):
    shutil.rmtree(copied / corrupt.NAME)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert contents(make(copied)) == contents(root / corrupt.NAME)
    assert np.array_equal(np.random.get_state()[1], before)  # the caller's own random numbers are unchanged
    fewer = make(copied, count=10)
    for name in CORRUPTIONS:
        few, all_of_them = (
            np.load(folder / f"{name}.npy").reshape(5, -1, 28, 28) for folder in (fewer, root / corrupt.NAME)
        )
        assert np.array_equal(few, all_of_them[:, :10])


def test_a_whole_set_is_left_alone_and_a_damaged_one_is_made_again(root, copied):
    def never(*_, **__):
        raise AssertionError

    make(copied, function=never)
    path = copied / corrupt.NAME / "snow.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    make(copied)
    assert contents(copied / corrupt.NAME) == contents(root / corrupt.NAME)


def test_a_kill_while_a_set_is_made_leaves_none_and_the_same_command_makes_it(root, copied):
    shutil.rmtree(copied / corrupt.NAME)
    calls = []

    def killed(*arguments, **options):
        calls.append(None)
        if len(calls) == 7 * 5 * COUNT + 3:
            (copied / corrupt.NAME / ".zoom_blur.npy.1.tmp").write_bytes(b"half of it")
            os._exit(9)
        return darker(*arguments, **options)

    if (child := os.fork()) == 0:
        make(copied, function=killed)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (copied / corrupt.NAME / "motion_blur.npy").exists()
    done = call("train.py", *TINY, f"data_dir={copied}", f"runs_dir={copied / 'runs'}")
    assert done.returncode == 2
    is_one_line(done, "FashionMNIST-C is not in", "python scripts/prepare_data.py cifar100c FashionMNIST")
    assert contents(make(copied)) == contents(root / corrupt.NAME)


def test_the_library_gives_the_same_pixels_twice():
    library = pytest.importorskip("imagecorruptions").corrupt
    images = np.random.default_rng(0).integers(0, 255, (3, 28, 28), np.uint8)
    for name in CORRUPTIONS:
        first, second = (corrupt.corrupted(library, images, name) for _ in range(2))
        assert np.array_equal(first, second)
        assert not np.array_equal(first[:3, :, :, 0], images)


def test_a_missing_library_is_said(copied, monkeypatch):
    shutil.rmtree(copied / corrupt.NAME)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(
        UserError, match=r"FashionMNIST-C needs the package imagecorruptions-imaug.*make setup EXTRAS=corruptions"
    ):
        corrupt.make(copied, np.zeros((2, 28, 28), np.uint8), np.zeros(2), print)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("names=[fog,rain]", r"names=\['fog', 'rain'\] must be different ones of gaussian_noise"),
        ("names=[saturate]", r"saturate\.npy is not in .*; take it out of task\.corruptions\.names"),
        ("severities=[0,1]", r"severities=\[0, 1\] must be different ones of 1, 2, 3, 4, 5"),
        ("severities=[1,1]", r"severities=\[1, 1\]"),
        ("severities=[]", r"severities=\[\]"),
        ("images=41", r"images=41 must lie in 1\.\.40"),
    ],
)
def test_wrong_settings_are_refused(root, override, words):
    with pytest.raises(UserError, match=words):
        load_corrupted(compose_config([*TINY, f"task.corruptions.{override}"]).task, root)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "labels",
            np.arange(5 * COUNT) % 7,
            "labels.npy.* does not hold the labels of FashionMNIST's test images, five times; delete",
        ),
        ("labels", np.zeros((0,), np.int64), "does not hold the labels"),
        (
            "fog",
            np.zeros((5 * COUNT, 32, 32, 3), np.uint8),
            r"fog\.npy is uint8 \[200, 32, 32, 3\], not uint8 \[200, 28, 28, 1\]; delete",
        ),
        ("fog", np.zeros((5 * COUNT, 28, 28, 1)), r"fog\.npy is float64 \[200, 28, 28, 1\]"),
        ("fog", b"another format", r"fog\.npy is damaged"),
        ("fog", None, r"fog\.npy is damaged"),
    ],
)
def test_foreign_and_damaged_files_are_said_with_what_to_do(copied, file, content, words):
    path = copied / corrupt.NAME / f"{file}.npy"
    if content is None:
        path.write_bytes(path.read_bytes()[:-1])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=rf"{words}.*python scripts/prepare_data\.py cifar100c FashionMNIST"):
        load_corrupted(compose_config([*TINY]).task, copied)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Make a CIFAR-100-C.tar of four test images, the only known one."""
    monkeypatch.setattr(prepare, "IMAGES", 4)
    monkeypatch.setattr(prepare, "NEEDED", 0)
    monkeypatch.setattr(prepare.clean, "prepare", lambda *_: None)
    path = tmp_path / "CIFAR-100-C.tar"
    with tarfile.open(path, "w") as tar:
        for name in prepare.FILES:
            buffer = io.BytesIO()
            np.save(buffer, np.arange(20) if name == "labels.npy" else np.full((20, 32, 32, 3), len(name), np.uint8))
            about = tarfile.TarInfo(f"CIFAR-100-C/{name}")
            about.size = buffer.tell()
            tar.addfile(about, io.BytesIO(buffer.getvalue()))
    monkeypatch.setattr(prepare, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_the_published_set_is_unpacked_once_also_after_a_failure(archive, tmp_path, monkeypatch):
    def full(path, write):
        if path.name == "snow.npy":
            raise OSError(28, "No space left on device")
        write_atomically(path, write)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left"):
        patch.setattr(prepare, "write_atomically", full)
        prepare_task("cifar100c", ["CIFAR100"], tmp_path)
    folder = tmp_path / "CIFAR-100-C"
    assert not prepare.whole(folder)
    prepare_task("cifar100c", ["CIFAR100"], tmp_path)
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted([*prepare.FILES, "checksums.json"])
    assert np.load(folder / "fog.npy").shape == (20, 32, 32, 3) and np.load(folder / "fog.npy").max() == len("fog.npy")
    archive.unlink()
    prepare_task("cifar100c", ["CIFAR100"], tmp_path)  # needs neither the archive nor a network


def test_another_archive_is_not_unpacked_and_a_full_disk_is_said_before(archive, tmp_path, monkeypatch):
    archive.write_bytes(archive.read_bytes()[:-600] + b"x" * 600)
    offline = OSError("no network")
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"cannot be downloaded \(no network\); put CIFAR-100-C\.tar of https"),
    ):
        patch.setattr("torchvision.datasets.utils.download_url", lambda *_: (_ for _ in ()).throw(offline))
        prepare_task("cifar100c", ["CIFAR100"], tmp_path)
    assert not (tmp_path / "CIFAR-100-C").exists()
    monkeypatch.setattr(prepare, "NEEDED", 10**18)
    with pytest.raises(UserError, match=r"CIFAR-100-C needs 1000000000 GB on the disk of .*; free some"):
        prepare_task("cifar100c", ["CIFAR100"], tmp_path)


@pytest.mark.weekly
def test_a_killed_run_ends_with_the_same_score(root, tmp_path):
    arguments = (*TINY, f"data_dir={root}", "num_steps=40", "task.log_every_steps=5", "checkpoint_every_steps=5")
    assert call("train.py", *arguments, f"runs_dir={tmp_path / 'undisturbed'}").returncode == 0
    process = start("train.py", *arguments, f"runs_dir={tmp_path / 'killed'}")
    wait_until(lambda: process.poll() is not None or list(tmp_path.glob("killed/*/*/checkpoint.pt")))
    process.kill()
    process.wait()
    assert call("train.py", *arguments, f"runs_dir={tmp_path / 'killed'}").returncode == 0
    (first,), (second,) = (records(tmp_path / name).values() for name in ("undisturbed", "killed"))
    assert first["metrics"] == second["metrics"] and first["state_sha256"] == second["state_sha256"]
    assert first["metric"]["name"] == "corrupted_accuracy"
    kinds = [
        *CORRUPTIONS,
        *(f"severity_{s}" for s in first["config"]["task"]["corruptions"]["severities"]),
        "selection",
        "report",
    ]
    expected = {"corrupted_accuracy", *(f"corrupted_accuracy_{kind}" for kind in kinds)}
    assert {name for name in first["metrics"] if name.startswith("corrupted")} == expected
    (log,) = tmp_path.glob("killed/*/*/metrics.jsonl")
    assert json.loads(log.read_text().splitlines()[-1])["corrupted_accuracy"] == first["metrics"]["corrupted_accuracy"]
